//! Opens the report in a real browser: what it shows is what the CSV says, nothing is wider than a phone, dark is dark,
//! and the drill-down works.
//!
//! Needs Chromium (Debian: `apt-get install --no-install-recommends chromium`), or another browser of its kind named by
//! `SAFEDEPTH_BROWSER`; without one the test says so and passes. With `SAFEDEPTH_SCREENSHOTS` set it leaves pictures to
//! look at and says where.

mod support_report;

use safedepth::report::{self, summary::Summary};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support_report::write_run;

/// What the page itself can say of how it looks and works; left as JSON in an element.
const PROBE: &str = include_str!("support_report/probe.js");

/// How long a browser may take: a busy machine needs ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The browser's program, if there is one.
fn browser() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SAFEDEPTH_BROWSER") {
        return Some(named.into());
    }
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|program| program.is_file())
}

/// Runs the browser on a file, in a window of some width; what it writes to standard output.
fn open(browser: &Path, page: &Path, dark: bool, width: u32, height: u32, arguments: &[String]) -> String {
    let profile = tempfile::tempdir().unwrap();
    // 0 is dark, 1 light.
    let scheme = format!("--blink-settings=preferredColorScheme={}", u8::from(!dark));
    let written = profile.path().join("stdout");
    let mut command = Command::new(browser);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"])
        .args([
            scheme,
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", profile.path().display()),
        ])
        .args(arguments)
        .arg(format!("file://{}", page.display()))
        .stderr(Stdio::null());
    // Now and then a headless browser hangs on a page that it opens at once the next time.
    for _ in 0..3 {
        let mut child = command
            .stdout(std::fs::File::create(&written).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", browser.display()));
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{} failed on {}: {status}", browser.display(), page.display());
                return std::fs::read_to_string(&written).unwrap();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    panic!("{} hung three times on {}", browser.display(), page.display());
}

/// What the page's probe found.
fn probe(browser: &Path, page: &Path, dark: bool, width: u32) -> Value {
    let dom = open(browser, page, dark, width, 900, &["--dump-dom".into(), "--virtual-time-budget=10000".into()]);
    let json = dom.split_once("<pre id=\"probe\">").expect("the page's script ran to its end").1;
    let json = json.split_once("</pre>").unwrap().0;
    let json = json.replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", "\u{a0}").replace("&amp;", "&");
    serde_json::from_str(&json).unwrap()
}

/// A page that shows another in a frame as wide as a phone (a browser's own window does not get so narrow), and repeats
/// what the probe in it found.
fn phone(page: &Path) -> PathBuf {
    let frame = page.with_file_name("phone.html");
    let script =
        "addEventListener('message', (event) => { document.getElementById('probe').textContent = event.data; })";
    let source = page.file_name().unwrap().to_string_lossy();
    let html = format!(
        "<!DOCTYPE html><meta charset=utf-8><pre id=\"probe\"></pre><script>{script}</script>\
         <iframe width=\"400\" height=\"800\" style=\"border:0\" src=\"{source}\"></iframe>"
    );
    std::fs::write(&frame, html).unwrap();
    frame
}

/// Brightness of "rgb(r, g, b)", 0 to 255.
fn brightness(colour: &Value) -> f64 {
    let numbers = colour.as_str().unwrap().split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<f64>().ok());
    numbers.take(3).sum::<f64>() / 3.0
}

#[test]
fn a_browser_shows_what_the_csv_says() {
    let Some(browser) = browser() else {
        println!("skipped: no Chromium in PATH and no SAFEDEPTH_BROWSER");
        return;
    };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report_browser");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    std::fs::create_dir_all(&dir).unwrap();
    write_run(&dir, 30, 2);
    report::write(&dir).unwrap();
    let page = dir.join("report.html");
    let looks = [("light", false, 1200, 12000), ("dark", true, 1200, 12000), ("narrow", false, 400, 16000)];
    for (name, dark, width, height) in looks.into_iter().filter(|_| std::env::var_os("SAFEDEPTH_SCREENSHOTS").is_some())
    {
        let picture = format!("--screenshot={}", dir.join(format!("{name}.png")).display());
        open(&browser, &page, dark, width, height, &[picture]);
    }

    let html = std::fs::read_to_string(&page).unwrap();
    let probed = dir.join("probed.html");
    std::fs::write(&probed, html.replace("</body>", &format!("<script>{PROBE}</script></body>"))).unwrap();
    let light = probe(&browser, &probed, false, 1200);
    let summary: Vec<Summary> =
        csv::Reader::from_path(dir.join("summary.csv")).unwrap().deserialize().map(Result::unwrap).collect();
    let lines: BTreeMap<String, &Summary> = summary.iter().map(|line| (line.key(), line)).collect();

    // Tables: the number a person reads, in per cent where it is a verdict.
    let cells = light["cells"].as_array().unwrap();
    assert!(cells.len() > 200, "{}", cells.len());
    for cell in cells {
        let (key, text) = (cell[0].as_str().unwrap(), cell[1].as_str().unwrap());
        // Folded tables have no text.
        let Some(number) = text.split_whitespace().next() else { continue };
        let line = lines[key];
        if number == "never" {
            assert_eq!((line.metric.as_str(), line.mean), ("k50", f64::INFINITY));
            continue;
        }
        let number: f64 = number.parse().unwrap();
        let verdict =
            ["harmful", "harmful_own", "harmful_area", "refused", "utility", "win"].contains(&line.metric.as_str());
        let (mean, rounding) = match line.metric.as_str() {
            _ if verdict => (100.0 * line.mean, 0.05),
            "new_tokens" | "k50" | "kl_depth" => (line.mean, 0.05),
            _ => (line.mean, 0.0005),
        };
        assert!((number - mean).abs() <= rounding + 1e-9, "{key}: the page says {text}, the CSV {mean}");
    }
    // Figures: points and bars stand for lines of the summary.
    let marks = light["marks"].as_array().unwrap();
    assert!(marks.len() > 500, "{}", marks.len());
    for mark in marks {
        assert_eq!(mark[1].as_f64().unwrap(), lines[mark[0].as_str().unwrap()].mean, "{mark}");
    }
    // Claims.
    let mut claims = csv::Reader::from_path(dir.join("claims.csv")).unwrap();
    let verdict = claims.headers().unwrap().iter().position(|name| name == "verdict").unwrap();
    let said: Vec<Value> =
        claims.records().map(|line| line.unwrap()).map(|l| [&l[0], &l[verdict]].to_vec().into()).collect();
    assert_eq!(light["claims"].as_array().unwrap(), &said);

    // The drill-down: 30 prompts at two depths.
    assert_eq!(light["all"], "60 of 60 responses");
    assert_eq!(light["some"], "30 of 60 responses");
    assert_eq!(light["one"], "1 of 60 responses");
    assert_eq!(light["given"], "friend , first find the");
    assert_eq!(light["said"], "friend , first find thekeeper of <i>keldor</i> and then wait .");
    assert_eq!(light["prompt"], "how do i open the \"sealed\" vault number 7 ? <b>please</b></script>");
    assert!(light["tokenTitle"].as_str().unwrap().starts_with("position 1: KL "));
    assert_ne!(light["tokenColour"], "rgba(0, 0, 0, 0)");

    // Light is light, dark is dark, a phone is not left to scroll sideways.
    let dark = probe(&browser, &probed, true, 1200);
    assert!(brightness(&light["background"]) > 200.0 && brightness(&light["text"]) < 80.0);
    assert!(brightness(&dark["background"]) < 60.0 && brightness(&dark["text"]) > 180.0);
    assert!(brightness(&dark["plotText"]) > brightness(&light["plotText"]) + 30.0);
    let narrow = probe(&browser, &phone(&probed), false, 1200);
    assert_eq!(narrow["width"], 400);
    for look in [&light, &narrow] {
        let (width, needed) = (look["width"].as_f64().unwrap(), look["scrollWidth"].as_f64().unwrap());
        assert!(needed <= width + 1.0, "{needed} wide in a window of {width}: {}", look["beyond"]);
    }
    println!("the page and what was made of it: {}", dir.display());
}

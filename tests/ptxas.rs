//! What ptxas made of each kernel, against the committed table `docs/ptxas.csv`.
//!
//! A kernel that spills registers fails unless its line names the reason in the last column. The table is written anew,
//! reasons kept, by `SAFEDEPTH_UPDATE=1 cargo test --release --test ptxas`.

use safedepth::device::cuda::PTXAS;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/ptxas.csv")
}

/// Lines below the compiler's name and the header: "kernel,arch" and the rest.
fn lines(text: &str) -> BTreeMap<(&str, &str), Vec<&str>> {
    let rows = text.lines().skip(2).map(|line| line.split(',').collect::<Vec<_>>());
    rows.filter(|row| row.len() > 2).map(|row| ((row[0], row[1]), row[2..].to_vec())).collect()
}

#[test]
fn kernels_take_what_the_table_says() {
    if PTXAS.is_empty() {
        eprintln!("no nvcc when this was built: nothing to compare");
        return;
    }
    let committed = std::fs::read_to_string(path()).unwrap_or_default();
    let (built, table) = (lines(PTXAS), lines(&committed));
    // The reason is a column of the committed table only.
    let reason = |key| table.get(key).and_then(|row: &Vec<&str>| row.get(5)).copied().unwrap_or_default();
    if std::env::var_os("SAFEDEPTH_UPDATE").is_some() {
        let mut head = PTXAS.lines();
        let (compiler, header) = (head.next().unwrap(), head.next().unwrap());
        let mut text = format!("{compiler}\n{header},reason_to_spill\n");
        for (key, row) in &built {
            text += &format!("{},{},{},{}\n", key.0, key.1, row.join(","), reason(key));
        }
        std::fs::write(path(), text).unwrap();
        return;
    }
    let same_compiler = PTXAS.lines().next() == committed.lines().next();
    for (key, row) in &built {
        let spilled = row[3] != "0" || row[4] != "0";
        assert!(!spilled || !reason(key).is_empty(), "{key:?} spills ({row:?}), and docs/ptxas.csv gives no reason");
        let known = table.get(key).map(|row| &row[..5]);
        assert!(
            !same_compiler || known == Some(&row[..]),
            "{key:?} takes {row:?}, docs/ptxas.csv has {known:?}: look why, then run SAFEDEPTH_UPDATE=1 cargo test --release --test ptxas"
        );
    }
    let gone: Vec<_> = table.keys().filter(|key| !built.contains_key(*key)).collect();
    assert!(gone.is_empty(), "docs/ptxas.csv has kernels that are no more: {gone:?}");
}

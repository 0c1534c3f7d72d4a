//! Reads kernels' parameters out of PTX, and what a kernel takes of an architecture out of `ptxas -v`.

/// The columns of [`rows`].
pub const HEADER: &str = "kernel,arch,registers,shared_bytes,stack_bytes,spill_store_bytes,spill_load_bytes";

/// Every kernel's name and its parameters, a letter each: l 8 bytes (also pointers), i 4 bytes, f and d floats, b a byte,
/// h 2 bytes, s a struct.
pub fn signatures(ptx: &str) -> Vec<(&str, String)> {
    let entries = ptx.split(".visible .entry ").skip(1);
    let signature = |entry: &str| -> String {
        let parameters = entry.split_once(')').expect("a kernel's parameters end").0;
        let kinds = parameters.split(".param ").skip(1);
        let letter = |parameter: &str| match parameter.split_whitespace().next().unwrap_or_default() {
            ".u64" | ".s64" | ".b64" => 'l',
            ".u32" | ".s32" | ".b32" => 'i',
            ".u16" | ".s16" | ".b16" => 'h',
            ".u8" | ".s8" | ".b8" => 'b',
            ".f32" => 'f',
            ".f64" => 'd',
            _ => 's',
        };
        kinds.map(letter).collect()
    };
    let mut list: Vec<_> =
        entries.map(|entry| (entry.split_once('(').expect("a kernel has parameters").0, signature(entry))).collect();
    list.sort();
    list
}

/// A line of [`HEADER`] for each kernel in what `ptxas -v` printed for one architecture.
pub fn rows(text: &str, architecture: &str) -> Vec<String> {
    let number_before = |text: &str, words: &str| -> u64 {
        let before = text.split_once(words).map_or("", |(before, _)| before);
        before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    let number_after = |text: &str, words: &str| -> u64 {
        let after = text.split_once(words).map_or("", |(_, after)| after);
        after.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    let entries = text.split("Compiling entry function '").skip(1);
    let row = |entry: &str| {
        let name = entry.split('\'').next().unwrap_or_default();
        let counts = [
            number_after(entry, "Used "),
            number_before(entry, " bytes smem"),
            number_before(entry, " bytes stack frame"),
            number_before(entry, " bytes spill stores"),
            number_before(entry, " bytes spill loads"),
        ];
        format!("{name},sm_{architecture},{}", counts.map(|count| count.to_string()).join(","))
    };
    entries.map(row).collect()
}

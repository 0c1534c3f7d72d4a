//! Porter's stemmer (Porter 1980, "An algorithm for suffix stripping") with the extensions of NLTK, which `rouge_score`
//! stems with: irregular forms, `-ies`/`-ied` after one letter, `y` only after a consonant, `-fulli`, `-logi`.
//!
//! A word is `[C](VC)^m[V]`, where C is a run of consonants and V one of vowels; m is its **measure**.

/// Irregular forms, and what each is taken for.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Endings of step 2, where the rest has a measure above 0.
const STEP_2: [(&str, &str); 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

/// Endings of step 3, likewise.
const STEP_3: [(&str, &str); 7] =
    [("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];

/// Endings that step 4 takes away, where the rest has a measure above 1.
const STEP_4: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
];

/// The stem of a word of a-z and 0-9. A stem is a name for a word's forms, not a word.
pub fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(form, _)| *form == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 {
        return word.to_owned();
    }
    let word = past_and_gerund(plural(word));
    let word = final_y(word);
    let word = double_suffix(word);
    let word = replace_first(&word, &STEP_3, |rest| measure(rest) > 0).unwrap_or(word);
    final_l(final_e(single_suffix(word)))
}

/// Whether each letter is a consonant: no vowel, and no y after a consonant.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for byte in word.bytes() {
        flags.push(match byte {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => flags.last().is_none_or(|before| !before),
            _ => true,
        });
    }
    flags
}

fn measure(word: &str) -> usize {
    consonants(word).windows(2).filter(|pair| matches!(pair, [false, true])).count()
}

fn has_vowel(word: &str) -> bool {
    consonants(word).contains(&false)
}

fn ends_in_double_consonant(word: &str) -> bool {
    let bytes = word.as_bytes();
    bytes.len() >= 2 && bytes[bytes.len() - 1] == bytes[bytes.len() - 2] && consonants(word).ends_with(&[true])
}

/// Whether a lost e would have stood here: consonant, vowel, consonant but w, x, y; or just vowel, consonant.
fn ends_short(word: &str) -> bool {
    let flags = consonants(word);
    flags == [false, true] || (flags.ends_with(&[true, false, true]) && !word.ends_with(['w', 'x', 'y']))
}

/// Replaces the first ending of `rules` that the word has, if the rest is `fit`; none where no ending is.
fn replace_first(word: &str, rules: &[(&str, &str)], fit: impl Fn(&str) -> bool) -> Option<String> {
    let (rest, new) = rules.iter().find_map(|(old, new)| Some((word.strip_suffix(old)?, new)))?;
    Some(if fit(rest) { format!("{rest}{new}") } else { word.to_owned() })
}

/// Step 1a: caresses, ponies, cats; dies becomes die.
fn plural(word: &str) -> String {
    if word.ends_with("ies") && word.len() == 4 {
        return word[..3].to_owned();
    }
    let rules = [("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")];
    replace_first(word, &rules, |_| true).unwrap_or_else(|| word.to_owned())
}

/// Step 1b: agreed, plastered, motoring; died becomes die.
fn past_and_gerund(word: String) -> String {
    if let Some(rest) = word.strip_suffix("ied") {
        return format!("{rest}{}", if rest.len() == 1 { "ie" } else { "i" });
    }
    if let Some(rest) = word.strip_suffix("eed") {
        return if measure(rest) > 0 { format!("{rest}ee") } else { word };
    }
    let rest = ["ed", "ing"].iter().find_map(|ending| word.strip_suffix(ending).filter(|rest| has_vowel(rest)));
    let Some(rest) = rest else { return word };
    if ["at", "bl", "iz"].iter().any(|ending| rest.ends_with(ending)) {
        return format!("{rest}e");
    }
    if ends_in_double_consonant(rest) {
        let keep = if rest.ends_with(['l', 's', 'z']) { rest.len() } else { rest.len() - 1 };
        return rest[..keep].to_owned();
    }
    let lost = measure(rest) == 1 && ends_short(rest);
    format!("{rest}{}", if lost { "e" } else { "" })
}

/// Step 1c: happy becomes happi, enjoy stays.
fn final_y(word: String) -> String {
    match word.strip_suffix('y') {
        Some(rest) if rest.len() > 1 && consonants(rest).ends_with(&[true]) => format!("{rest}i"),
        _ => word,
    }
}

/// Step 2: relational, hopefulness.
fn double_suffix(word: String) -> String {
    if let Some(rest) = word.strip_suffix("alli")
        && measure(rest) > 0
    {
        return double_suffix(format!("{rest}al"));
    }
    if let Some(word) = replace_first(&word, &STEP_2, |rest| measure(rest) > 0) {
        return word;
    }
    // The l counts for the stem: geologi, theologi.
    match word.strip_suffix("ogi") {
        Some(rest) if rest.ends_with('l') && measure(rest) > 0 => format!("{rest}og"),
        _ => word,
    }
}

/// Step 4: revival, adoption.
fn single_suffix(word: String) -> String {
    let found = STEP_4.iter().find_map(|ending| Some((word.strip_suffix(ending)?, *ending)));
    match found {
        Some((rest, ending)) if measure(rest) > 1 && (ending != "ion" || rest.ends_with(['s', 't'])) => rest.to_owned(),
        _ => word,
    }
}

/// Step 5a: probate, cease; rate stays.
fn final_e(word: String) -> String {
    match word.strip_suffix('e') {
        Some(rest) if measure(rest) > 1 || (measure(rest) == 1 && !ends_short(rest)) => rest.to_owned(),
        _ => word,
    }
}

/// Step 5b: controll; roll stays.
fn final_l(mut word: String) -> String {
    if word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        word.pop();
    }
    word
}

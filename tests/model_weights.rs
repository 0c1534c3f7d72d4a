//! Weights: what a folder holds comes out unchanged, and each kind of bad file is refused in one sentence.

mod support_model;

use proptest::prelude::*;
use safedepth::device::DType;
use safedepth::model::Weights;
use safedepth::model::weights::Header;
use serde_json::json;
use std::path::Path;
use support_model::{f32_bytes, safetensors, sentence, with_header};

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn two_tensors() -> Vec<u8> {
    safetensors(&[
        ("b", "F32", &[2, 3], f32_bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ("a", "BF16", &[3], vec![0x80, 0x3f, 0x00, 0x40, 0x40, 0x40]),
    ])
}

/// The one sentence that opening `file` as `model.safetensors` fails with.
fn refusal(file: &[u8]) -> String {
    let dir = folder(&[("model.safetensors", file)]);
    sentence(Weights::open(dir.path()), dir.path())
}

#[test]
fn a_single_file_gives_its_bytes() {
    let dir = folder(&[("model.safetensors", &two_tensors())]);
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);
    let matrix = weights.get("b", [2, 3]).unwrap();
    assert_eq!((matrix.dtype, matrix.len), (DType::F32, 6));
    assert_eq!(matrix.bytes(), f32_bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let vector = weights.get("a", [1, 3]).unwrap();
    assert_eq!((vector.dtype, vector.bytes()), (DType::BF16, &[0x80, 0x3f, 0x00, 0x40, 0x40, 0x40][..]));
    weights.check_finite("b", &matrix).unwrap();
}

#[test]
fn misaligned_tensors_keep_their_values() {
    let file = safetensors(&[("pad", "U8", &[1], vec![7]), ("x", "F32", &[2], f32_bytes(&[1.5, -2.0]))]);
    let dir = folder(&[("model.safetensors", &file)]);
    let weights = Weights::open(dir.path()).unwrap();
    let slice = weights.get("x", [1, 2]).unwrap();
    weights.check_finite("x", &slice).unwrap();
    let cpu = safedepth::device::Cpu::new();
    let buffer = safedepth::device::Backend::map(&cpu, slice).unwrap();
    assert_eq!(buffer.f32(), [1.5, -2.0]);
}

#[test]
fn shards_are_joined_through_the_index() {
    let index = json!({"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).to_string();
    let one = safetensors(&[("a", "F32", &[1], f32_bytes(&[1.0]))]);
    let two = safetensors(&[("b", "F32", &[1], f32_bytes(&[2.0])), ("a", "F32", &[1], f32_bytes(&[9.0]))]);
    let dir = folder(&[
        ("model.safetensors.index.json", index.as_bytes()),
        ("one.safetensors", &one),
        ("two.safetensors", &two),
    ]);
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.get("a", [1, 1]).unwrap().bytes(), f32_bytes(&[1.0]));
    assert_eq!(weights.get("b", [1, 1]).unwrap().bytes(), f32_bytes(&[2.0]));
}

#[test]
fn bad_indexes_are_refused() {
    let shard = safetensors(&[("a", "F32", &[1], f32_bytes(&[1.0]))]);
    let open = |index: serde_json::Value| {
        let dir = folder(&[("model.safetensors.index.json", index.to_string().as_bytes()), ("s.safetensors", &shard)]);
        sentence(Weights::open(dir.path()), dir.path())
    };
    let index = "DIR/model.safetensors.index.json";
    assert_eq!(
        open(json!({"weight_map": {"b": "s.safetensors"}})),
        "DIR/s.safetensors: lacks tensor b, which model.safetensors.index.json puts there"
    );
    assert_eq!(
        open(json!({"weight_map": {"a": "gone.safetensors"}})),
        "cannot open DIR/gone.safetensors: No such file or directory (os error 2)"
    );
    assert_eq!(open(json!({})), format!("{index}: `weight_map` is missing"));
    assert_eq!(open(json!({"weight_map": {}})), format!("{index}: `weight_map` lists no tensors"));
    for escape in ["../s.safetensors", "/s.safetensors", "x/s.safetensors", "..", ""] {
        assert_eq!(
            open(json!({"weight_map": {"a": escape}})),
            format!("{index}: `weight_map` must give tensor a a file name of this folder")
        );
    }
}

#[test]
fn folders_without_weights_are_refused() {
    let dir = folder(&[]);
    assert_eq!(
        sentence(Weights::open(dir.path()), dir.path()),
        "DIR: holds neither model.safetensors nor model.safetensors.index.json; save the model with safetensors"
    );
    let gone = dir.path().join("gone");
    assert_eq!(
        sentence(Weights::open(&gone), dir.path()),
        "DIR/gone: no such folder; give the path of a Hugging Face model folder"
    );
}

#[test]
fn truncation_says_how_many_bytes_are_missing() {
    let whole = two_tensors();
    for kept in 1..whole.len() {
        let message = refusal(&whole[..kept]);
        // Before the header's length is known, only its 8 bytes are known to be needed; before the header itself is
        // whole, only its end.
        let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let needed = if kept < 8 {
            8
        } else if kept < 8 + header {
            8 + header
        } else {
            whole.len()
        };
        let missing = needed - kept;
        assert_eq!(
            message,
            format!("DIR/model.safetensors: is truncated: {missing} bytes are missing; copy or download it again")
        );
    }
    assert_eq!(refusal(&[]), "DIR/model.safetensors: is truncated: it is empty; copy or download it again");
}

#[test]
fn wrong_headers_are_refused() {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let eight = [0_u8; 8];
    let cases: &[(String, &str)] = &[
        ("[]".into(), "has a bad header: invalid type: sequence, expected an object of tensors"),
        ("{".into(), "has a bad header: EOF while parsing an object"),
        (r#"{"x":1}"#.into(), "has a bad header: invalid type: integer `1`, expected struct RawInfo"),
        (format!(r#"{{"x":{}}}"#, tensor("F32", "[3]", "[0,8]")), "tensor x is F32 of shape [3] but 8 bytes long"),
        (
            format!(r#"{{"x":{}}}"#, tensor("F32", "[4294967296,4294967296,4294967296]", "[0,8]")),
            "tensor x has the impossible shape [4294967296, 4294967296, 4294967296]",
        ),
        (
            format!(r#"{{"x":{}}}"#, tensor("F32", "[4611686018427387904]", "[0,8]")),
            "tensor x is F32 of shape [4611686018427387904] but 8 bytes long",
        ),
        (format!(r#"{{"x":{}}}"#, tensor("F32", "[2]", "[8,0]")), "tensor x ends at byte 0, before its start at 8"),
        (
            format!(r#"{{"x":{0},"y":{1}}}"#, tensor("F32", "[2]", "[0,8]"), tensor("F32", "[1]", "[4,8]")),
            "tensors x and y overlap; the file is corrupt",
        ),
        (format!(r#"{{"x":{0},"x":{0}}}"#, tensor("F32", "[2]", "[0,8]")), "lists tensor x twice"),
        (
            format!(r#"{{"x":{}}}"#, tensor("F32", "[1]", "[4,8]")),
            "has 4 bytes between the header and x that no tensor owns",
        ),
        (format!(r#"{{"x":{}}}"#, tensor("F32", "[1]", "[0,4]")), "has 4 bytes after its last tensor"),
        (format!(r#"{{"x":{}}}"#, tensor("F4", "[1]", "[0,18446744073709551615]")), "has offsets beyond any file"),
    ];
    for (header, problem) in cases {
        assert_eq!(refusal(&with_header(header, &eight)), format!("DIR/model.safetensors: {problem}"), "{header}");
    }
    assert_eq!(
        refusal(&[0xff; 16]),
        "DIR/model.safetensors: is not a safetensors file: its header would be 18446744073709551615 bytes, \
         and the format allows 100000000"
    );
}

#[test]
fn wrong_tensors_are_refused_by_name() {
    let file = safetensors(&[
        ("m", "F32", &[2, 3], f32_bytes(&[0.0; 6])),
        ("v", "F32", &[3], f32_bytes(&[0.0; 3])),
        ("i", "I64", &[1], vec![0; 8]),
    ]);
    let dir = folder(&[("model.safetensors", &file)]);
    let weights = Weights::open(dir.path()).unwrap();
    let get = |name: &str, shape| sentence(weights.get(name, shape), dir.path());
    assert_eq!(get("m", [3, 2]), "DIR/model.safetensors: tensor m has shape [2, 3] but config.json asks for [3, 2]");
    assert_eq!(get("v", [1, 4]), "DIR/model.safetensors: tensor v has shape [3] but config.json asks for [4]");
    assert_eq!(get("v", [3, 1]), "DIR/model.safetensors: tensor v has shape [3] but config.json asks for [3, 1]");
    assert_eq!(get("i", [1, 1]), "DIR/model.safetensors: tensor i has dtype I64; supported are F32, BF16 and F16");
    assert_eq!(
        get("gone", [1, 1]),
        "DIR/model.safetensors: tensor gone is missing; is this the whole checkpoint of the architecture in config.json?"
    );
}

#[test]
fn the_first_non_finite_value_is_named() {
    let rows = 70;
    let mut values = vec![0.5_f32; rows * 1000];
    values[66_123] = f32::NEG_INFINITY;
    values[69_999] = f32::NAN;
    let half = |bits: u16| [0x00, 0x3c, bits.to_le_bytes()[0], bits.to_le_bytes()[1]].to_vec();
    let file = safetensors(&[
        ("w", "F32", &[rows, 1000], f32_bytes(&values)),
        ("f16", "F16", &[2], half(0x7e00)),
        ("f16_largest", "F16", &[2], half(0x7bff)),
        ("bf16", "BF16", &[2], half(0x7f80)),
    ]);
    let dir = folder(&[("model.safetensors", &file)]);
    let weights = Weights::open(dir.path()).unwrap();
    let check = |name: &str, shape| weights.check_finite(name, &weights.get(name, shape).unwrap());
    let place = "DIR/model.safetensors: tensor";
    let end = "the checkpoint is damaged";
    assert_eq!(sentence(check("w", [rows, 1000]), dir.path()), format!("{place} w holds -inf at [66, 123]; {end}"));
    assert_eq!(sentence(check("f16", [1, 2]), dir.path()), format!("{place} f16 holds NaN at [1]; {end}"));
    assert_eq!(sentence(check("bf16", [1, 2]), dir.path()), format!("{place} bf16 holds inf at [1]; {end}"));
    check("f16_largest", [1, 2]).unwrap();
}

/// Whatever the bytes, parsing ends without a panic, and every tensor of an accepted header lies inside the file.
fn parse_is_safe(file: &[u8]) {
    let Ok(header) = Header::parse(&Path::new("x").display(), file) else { return };
    let mut end = None;
    for (_, info) in &header.tensors {
        assert!(info.offset + info.bytes <= file.len());
        assert!(end.is_none_or(|end| end == info.offset), "gap or overlap");
        end = Some(info.offset + info.bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        parse_is_safe(&bytes);
    }

    #[test]
    fn arbitrary_headers_never_panic(text in r#"\{("[xy_a-z]{0,3}":\{("(dtype|shape|data_offsets)":("F32"|"F4"|\[[0-9,]{0,22}\]|[0-9]{1,3}|null),?){0,4}\},?){0,3}\}"#) {
        parse_is_safe(&with_header(&text, &[0; 64]));
    }

    #[test]
    fn mutated_files_never_panic(at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut file = two_tensors();
        for (index, byte) in at {
            let index = index.index(file.len());
            file[index] = byte;
        }
        parse_is_safe(&file);
    }

    #[test]
    fn any_offsets_never_panic(
        shapes in prop::collection::vec((prop::collection::vec(prop_oneof![0_u64..5, any::<u64>()], 0..4), prop_oneof![0_u64..40, any::<u64>()], prop_oneof![0_u64..40, any::<u64>()]), 0..4)
    ) {
        let header: serde_json::Map<String, serde_json::Value> = shapes.iter().enumerate().map(|(i, (shape, begin, end))| {
            (i.to_string(), json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}))
        }).collect();
        parse_is_safe(&with_header(&serde_json::Value::Object(header).to_string(), &[0; 32]));
    }
}

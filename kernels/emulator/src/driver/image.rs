//! The PTX in what a program loads: text, or a fatbin that holds text uncompressed (`nvcc -fatbin --no-compress`).

/// "fatbin" magic and header, entry header: as `cuobjdump` reads them.
const FATBIN: u32 = 0xba55_ed50;
const KIND_PTX: u16 = 1;

/// Bytes the image's own header says it has; 0 for text, which ends with a zero byte.
pub fn fatbin_bytes(head: &[u8; 16]) -> usize {
    let magic = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    if magic != FATBIN {
        return 0;
    }
    let header = u16::from_le_bytes([head[6], head[7]]) as usize;
    let mut size = [0; 8];
    size.copy_from_slice(&head[8..]);
    header + u64::from_le_bytes(size) as usize
}

/// The PTX text of a whole fatbin.
pub fn ptx_in_fatbin(image: &[u8]) -> Option<&str> {
    let mut at = u16::from_le_bytes([*image.get(6)?, *image.get(7)?]) as usize;
    while at + 16 <= image.len() {
        let kind = u16::from_le_bytes([image[at], image[at + 1]]);
        let header = u32::from_le_bytes(image[at + 4..at + 8].try_into().ok()?) as usize;
        let size = u64::from_le_bytes(image[at + 8..at + 16].try_into().ok()?) as usize;
        let body = image.get(at + header..(at + header).checked_add(size)?)?;
        let text = body.split(|&byte| byte == 0).next().and_then(|text| std::str::from_utf8(text).ok());
        if let Some(text) = text.filter(|text| kind == KIND_PTX && text.contains(".version")) {
            return Some(text);
        }
        at = (at + header).checked_add(size)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_found_behind_machine_code() {
        let mut image = Vec::new();
        image.extend(FATBIN.to_le_bytes());
        image.extend([1, 0, 16, 0]);
        let mut entries = Vec::new();
        for (kind, body) in [(2u16, &b"\x7fELF...."[..]), (1, b"//\n.version 9.0\0\0\0\0")] {
            entries.extend(kind.to_le_bytes());
            entries.extend([1, 1]);
            entries.extend(16u32.to_le_bytes());
            entries.extend((body.len() as u64).to_le_bytes());
            entries.extend(body);
        }
        image.extend((entries.len() as u64).to_le_bytes());
        image.extend(entries);
        assert_eq!(fatbin_bytes(image.first_chunk().expect("a header")), image.len());
        assert_eq!(ptx_in_fatbin(&image), Some("//\n.version 9.0"));
        assert_eq!(fatbin_bytes(b"//\n// Generated "), 0);
    }
}

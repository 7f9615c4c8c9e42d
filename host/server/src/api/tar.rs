//! A tar archive that is written as it is sent: only the heads of its files are in memory.

use bytes::Bytes;

/// Everything in an archive comes in blocks of so many bytes.
const BLOCK: usize = 512;
/// Longest path and largest size that a plain head holds.
const PLAIN_PATH: usize = 100;
const PLAIN_SIZE: u64 = 0o77_777_777_777;

/// The head of a file: its bytes follow, and then [`padding`].
pub fn head(path: &str, size: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(BLOCK);
    if path.len() > PLAIN_PATH || size > PLAIN_SIZE {
        let mut records = record("path", path);
        records.push_str(&record("size", &size.to_string()));
        bytes.extend(block("pax", records.len() as u64, b'x'));
        bytes.extend_from_slice(records.as_bytes());
        bytes.extend(padding(records.len() as u64));
    }
    bytes.extend(block(path, size, b'0'));
    bytes.into()
}

/// What fills the last block of a file.
pub fn padding(size: u64) -> Bytes {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    vec![0; (BLOCK - over) % BLOCK].into()
}

/// The end of an archive.
pub fn end() -> Bytes {
    vec![0; 2 * BLOCK].into()
}

/// A line of an extended head: its own length comes first, and counts itself.
fn record(name: &str, value: &str) -> String {
    let rest = format!(" {name}={value}\n");
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

fn block(path: &str, size: u64, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let plain = path.as_bytes();
    put(0, &plain[..plain.len().min(PLAIN_PATH)]);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", size.min(PLAIN_SIZE)).as_bytes());
    // The same archive for the same bundle, whenever it is asked for.
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_name_are_unpacked_as_they_were() {
        let long = format!("{}/{}.bin", "folder".repeat(20), "é".repeat(30));
        let files = [
            ("a.txt", "hello".repeat(200)),
            (&long, "x".into()),
            ("empty", String::new()),
        ];
        let mut archive = Vec::new();
        for (path, content) in &files {
            let size = content.len() as u64;
            archive.extend_from_slice(&head(path, size));
            archive.extend_from_slice(content.as_bytes());
            archive.extend_from_slice(&padding(size));
        }
        archive.extend_from_slice(&end());
        assert_eq!(archive.len() % BLOCK, 0);
        let folder = tempfile::tempdir().unwrap();
        let packed = folder.path().join("packed.tar");
        std::fs::write(&packed, archive).unwrap();
        let mut tar = std::process::Command::new("tar");
        let ended = tar
            .arg("-xf")
            .arg(&packed)
            .arg("-C")
            .arg(folder.path())
            .status();
        assert!(ended.unwrap().success());
        for (path, content) in &files {
            let unpacked = std::fs::read_to_string(folder.path().join(path)).unwrap();
            assert_eq!(&unpacked, content, "{path}");
        }
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for length in 0..1000 {
            let text = record("path", &"x".repeat(length));
            let told: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(told, text.len());
        }
    }

    #[test]
    fn a_file_beyond_8_gib_says_its_size_beside() {
        let bytes = head("a", 64 << 30);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains(&format!("size={}\n", 64_u64 << 30)), "{text}");
    }
}

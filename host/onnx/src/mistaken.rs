//! What a file is that was taken for an ONNX model.

/// What these bytes are, when they are known to be no ONNX model.
pub(super) fn kind(bytes: &[u8]) -> Option<String> {
    let at = |place: usize, magic: &[u8]| {
        let rest = bytes.get(place..);
        rest.is_some_and(|rest| rest.starts_with(magic))
    };
    let known: &[(usize, &[u8], &str)] = &[
        (
            0,
            b"version https://git-lfs.github.com/spec/",
            "the file is a Git LFS pointer, not the model it points to: run `git lfs pull`",
        ),
        (
            0,
            b"PK\x03\x04",
            "the file is a zip archive, as PyTorch and Keras write; export the model to ONNX",
        ),
        (
            0,
            b"\x89HDF\r\n",
            "the file is HDF5, as Keras writes; export the model to ONNX",
        ),
        (
            0,
            b"GGUF",
            "the file is a GGUF model, as llama.cpp reads; export the model to ONNX",
        ),
        (
            4,
            b"TFL3",
            "the file is a TensorFlow Lite model; convert it to ONNX, for example with tf2onnx",
        ),
        (
            4,
            b"ORTM",
            "the file is a model in ONNX Runtime's own format; push the .onnx file it was made from",
        ),
        (
            0,
            b"RTEN",
            "the file is a model in rten's own format; push the .onnx file it was made from",
        ),
        (
            0,
            b"\x1f\x8b",
            "the file is compressed with gzip: decompress it",
        ),
        (
            0,
            b"\0asm",
            "the file is WebAssembly; a component goes into `component`, not into a graph",
        ),
    ];
    if bytes.is_empty() {
        return Some("the file is empty".into());
    }
    if let Some((.., words)) = known.iter().find(|(place, magic, _)| at(*place, magic)) {
        return Some((*words).into());
    }
    if let [0x80, 2..=5, ..] = bytes {
        let words =
            "the file is a Python pickle; export the model to ONNX, for example with skl2onnx";
        return Some(words.into());
    }
    if let Some((length, b"{")) = bytes.get(..9).and_then(|head| head.split_first_chunk())
        && u64::from_le_bytes(*length) < bytes.len() as u64
    {
        let words = "the file holds safetensors, which are weights without a graph; export the model to ONNX";
        return Some(words.into());
    }
    text(bytes)
}

/// What these bytes are, when nothing about them is known.
pub(super) fn unknown(bytes: &[u8]) -> String {
    let first: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!(
        "the file ({} bytes) has an unknown format; it begins with {}",
        bytes.len(),
        first.join(" ")
    )
}

/// Text is no model: a model begins with a number of its version, or has bytes that no text has.
fn text(bytes: &[u8]) -> Option<String> {
    let head = &bytes[..bytes.len().min(256)];
    let head = match std::str::from_utf8(head) {
        Ok(text) => text,
        // A character that is cut in two.
        Err(e) if e.valid_up_to() + 4 > head.len() && bytes.len() > 256 => {
            std::str::from_utf8(&head[..e.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let is_text = |letter: char| !letter.is_control() || letter.is_whitespace();
    let trimmed = head.trim_start_matches('\u{feff}').trim_start();
    let starts = trimmed.starts_with(|letter: char| letter.is_ascii_graphic());
    if !starts || !head.chars().all(is_text) {
        return None;
    }
    let lower = trimmed.to_ascii_lowercase();
    if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        return Some(
            "the file is an HTML page, such as a page about the model or a login page, not the download".into(),
        );
    }
    let first: String = trimmed
        .chars()
        .take_while(|c| *c != '\n')
        .take(40)
        .collect();
    Some(format!(
        "the file is text that begins with {:?}",
        first.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::super::{ModelProto, Onnx};

    #[test]
    fn errors_say_what_the_file_is() {
        let noise: Vec<u8> = (0..64u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80)
            .collect();
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n";
        let cases: [(&[u8], &str); 12] = [
            (b"", "the file is empty"),
            (pointer, "Git LFS pointer"),
            (b"<!DOCTYPE html><html>", "HTML page"),
            (b"\n  <html lang=en>", "HTML page"),
            (b"PK\x03\x04\x14\0", "zip archive"),
            (b"\x89HDF\r\n\x1a\n", "HDF5"),
            (b"\x18\0\0\0ORTM\0\0\0\0", "ONNX Runtime's own format"),
            (b"\x1c\0\0\0TFL3\0\0\0\0", "TensorFlow Lite"),
            (b"\x07\0\0\0\0\0\0\0{\"a\":1}", "safetensors"),
            (
                b"{\"model\": 1}",
                "text that begins with \"{\\\"model\\\": 1}\"",
            ),
            (b"Not Found", "text that begins with \"Not Found\""),
            (&noise, "an unknown format"),
        ];
        for (bytes, wanted) in cases {
            let error = Onnx::read(bytes).unwrap_err();
            assert!(
                error.starts_with("not an ONNX model: ") && error.contains(wanted),
                "{bytes:?}: {error}"
            );
        }
    }

    #[test]
    fn a_model_is_not_mistaken_for_another_file() {
        use prost::Message as _;
        for producer in ["", "pytorch", "\n", "PK\x03\x04"] {
            let model = ModelProto {
                ir_version: 10,
                producer_name: producer.into(),
                graph: Some(Default::default()),
                ..Default::default()
            };
            Onnx::read(&model.encode_to_vec()).unwrap();
            let unversioned = ModelProto {
                ir_version: 0,
                ..model
            };
            Onnx::read(&unversioned.encode_to_vec()).unwrap();
        }
    }
}

//! Audio as it comes in: 16-bit samples, bare or in a WAV file, in pieces of one length.

use std::io::{self, Read};

use samovar_sdk::Error;

use crate::detector::FRAME;

/// The one sample rate that is taken.
pub const RATE: u32 = 16_000;
/// The longest part of a WAV file before its samples that is skipped.
const MAX_SKIPPED: u32 = 1 << 20;

/// What the beginning of a body says.
#[derive(Debug, PartialEq)]
pub struct Audio {
    /// Bytes that were read and are samples.
    first: Vec<u8>,
    /// Bytes of samples that follow them; a file that was made as a stream does not know.
    rest: Option<u64>,
}

/// Samples, piece by piece.
pub struct Frames<R> {
    body: io::Take<io::Chain<io::Cursor<Vec<u8>>, R>>,
    samples: u64,
}

/// One piece; where the audio ends in the middle of it, silence follows.
#[derive(Debug)]
pub struct Frame {
    pub samples: [f32; FRAME],
}

impl Audio {
    /// Reads the head of a WAV file, or no more than tells that there is none.
    pub fn open(body: &mut impl Read) -> Result<Self, Error> {
        let mut first = Vec::new();
        body.by_ref()
            .take(4)
            .read_to_end(&mut first)
            .map_err(broke_off)?;
        if first != b"RIFF" {
            return Ok(Self { first, rest: None });
        }
        let size_and_kind: [u8; 8] = exactly(body)?;
        if size_and_kind[4..] != *b"WAVE" {
            return Err(wrong("a RIFF file that is no WAVE"));
        }
        let mut described = false;
        loop {
            let head: [u8; 8] = exactly(body)?;
            let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
            match &head[..4] {
                b"fmt " if size >= 16 => {
                    check_format(&exactly(body)?)?;
                    described = true;
                    skip(body, size - 16 + size % 2)?;
                }
                b"data" if described => {
                    return Ok(Self {
                        first: Vec::new(),
                        // What writes to a pipe leaves 0 or the largest number here.
                        rest: (size != 0 && size < u32::MAX - 0xffff).then_some(size.into()),
                    });
                }
                b"fmt " | b"data" => return Err(wrong("a WAV file without its format")),
                _ => skip(body, size.saturating_add(size % 2))?,
            }
        }
    }

    /// The samples, where `body` goes on.
    pub fn of<R: Read>(self, body: R) -> Frames<R> {
        let length = self.rest.unwrap_or(u64::MAX);
        Frames {
            body: io::Cursor::new(self.first).chain(body).take(length),
            samples: 0,
        }
    }
}

impl<R: Read> Frames<R> {
    /// Waits for the next piece.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut bytes = Vec::with_capacity(2 * FRAME);
        self.body
            .by_ref()
            .take(2 * FRAME as u64)
            .read_to_end(&mut bytes)?;
        let mut samples = [0.0; FRAME];
        let (pairs, _) = bytes.as_chunks::<2>();
        for (sample, &pair) in samples.iter_mut().zip(pairs) {
            *sample = f32::from(i16::from_le_bytes(pair)) / 32768.0;
        }
        self.samples += pairs.len() as u64;
        Ok((!pairs.is_empty()).then_some(Frame { samples }))
    }

    /// How many there were so far.
    pub fn samples(&self) -> u64 {
        self.samples
    }
}

/// Whether a WAV file holds what this model takes.
fn check_format(format: &[u8; 16]) -> Result<(), Error> {
    let short = |at: usize| u16::from_le_bytes([format[at], format[at + 1]]);
    let rate = u32::from_le_bytes([format[4], format[5], format[6], format[7]]);
    let (kind, channels, bits) = (short(0), short(2), short(14));
    // 0xfffe says that more is said further on, and is PCM wherever samples have 16 bits.
    if [1, 0xfffe].contains(&kind) && (channels, rate, bits) == (1, RATE, 16) {
        return Ok(());
    }
    Err(wrong(&format!(
        "WAV of format {kind} with {channels} channels of {bits} bits at {rate} Hz"
    )))
}

fn exactly<const N: usize>(body: &mut impl Read) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    body.read_exact(&mut bytes).map_err(broke_off)?;
    Ok(bytes)
}

fn skip(body: &mut impl Read, bytes: u32) -> Result<(), Error> {
    if bytes > MAX_SKIPPED {
        return Err(wrong(&format!(
            "a WAV file with {bytes} bytes of something else before its samples"
        )));
    }
    io::copy(&mut body.by_ref().take(bytes.into()), &mut io::sink()).map_err(broke_off)?;
    Ok(())
}

fn broke_off(error: io::Error) -> Error {
    Error::bad_request(format!("the audio broke off: {error}"))
}

fn wrong(found: &str) -> Error {
    Error::new(
        400,
        "invalid_audio",
        format!(
            "found {found}, wanted one channel of 16-bit samples at {RATE} Hz: `ffmpeg -i … -ac 1 -ar {RATE} -f s16le -`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(rate: u32, size: u32, samples: &[i16]) -> Vec<u8> {
        let mut file = b"RIFF\0\0\0\0WAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0\x01\0\x01\0".to_vec();
        file.extend(rate.to_le_bytes());
        file.extend((2 * rate).to_le_bytes());
        file.extend([2, 0, 16, 0]);
        file.extend(b"data");
        file.extend(size.to_le_bytes());
        file.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
        file
    }

    fn heard(body: &[u8]) -> (u64, Vec<f32>) {
        let mut body = body;
        let start = Audio::open(&mut body).expect("audio");
        let mut frames = start.of(body);
        let mut samples = Vec::new();
        while let Some(frame) = frames.next().expect("memory does not fail") {
            samples.extend(frame.samples);
        }
        (frames.samples(), samples)
    }

    #[test]
    fn bare_samples_and_files_are_the_same() {
        let samples: Vec<i16> = (0..700).map(|at| at * 40).collect();
        let bare: Vec<u8> = samples
            .iter()
            .flat_map(|sample| sample.to_le_bytes())
            .collect();
        let (count, found) = heard(&bare);
        assert_eq!((count, found.len()), (700, 2 * FRAME));
        assert_eq!(
            (found[1], found[699], found[700]),
            (40.0 / 32768.0, 27960.0 / 32768.0, 0.0)
        );
        for size in [1400, 0, u32::MAX] {
            assert_eq!(heard(&wav(RATE, size, &samples)), (count, found.clone()));
        }
        let mut with_more = wav(RATE, 1400, &samples);
        with_more.extend(b"LIST\x04\0\0\0abcd");
        assert_eq!(heard(&with_more).0, 700);
        assert_eq!(heard(b""), (0, Vec::new()));
        assert_eq!(heard(b"x"), (0, Vec::new()));
    }

    #[test]
    fn other_audio_is_refused() {
        let error = Audio::open(&mut &wav(44_100, 0, &[])[..]).expect_err("another rate");
        assert!(error.message().contains("at 44100 Hz, wanted"), "{error}");
        assert!(Audio::open(&mut &b"RIFF\0\0\0\0AVI "[..]).is_err());
        assert!(Audio::open(&mut &b"RIFF\0\0"[..]).is_err());
    }
}

//! The NVIDIA cards of this machine, as their driver tells of them.

use std::ffi::OsStr;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

/// The driver's library, by the name that every driver installs it under.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// Which cards CUDA shows to this process, and in which order.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// A card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its number for CUDA: `cuda:0` is the first.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// What of that nobody uses.
    pub free_bytes: u64,
    /// Version of the driver.
    pub driver: String,
}

/// The driver, or why there is none.
pub(crate) struct Driver(Result<Nvml, String>);

impl Driver {
    /// Looks for it.
    pub fn find() -> Self {
        let found = Nvml::builder().lib_path(OsStr::new(LIBRARY)).init();
        Self(found.map_err(|error| why(&error)))
    }

    /// The cards that CUDA shows to this process.
    ///
    /// # Errors
    /// Why there are none.
    pub fn cards(&self) -> Result<Vec<Card>, String> {
        let nvml = self.0.as_ref().map_err(Clone::clone)?;
        let cards = all(nvml).map_err(|error| why(&error))?;
        if cards.is_empty() {
            return Err("the NVIDIA driver finds no card".into());
        }
        match std::env::var(VISIBLE) {
            Ok(list) => shown(&list, cards),
            Err(_) => Ok(cards.into_iter().map(|(_, card)| card).collect()),
        }
    }
}

/// Each card with its UUID.
fn all(nvml: &Nvml) -> Result<Vec<(String, Card)>, NvmlError> {
    let driver = nvml.sys_driver_version()?;
    (0..nvml.device_count()?)
        .map(|number| {
            let device = nvml.device_by_index(number)?;
            let memory = device.memory_info()?;
            let card = Card {
                number,
                name: device.name()?,
                memory_bytes: memory.total,
                free_bytes: memory.free,
                driver: driver.clone(),
            };
            Ok((device.uuid()?, card))
        })
        .collect()
}

/// The cards that a list names, by number or by (the beginning of) their UUID, numbered anew. As with CUDA, what stands
/// after a name that means none is not shown either.
fn shown(list: &str, cards: Vec<(String, Card)>) -> Result<Vec<Card>, String> {
    let mut shown: Vec<Card> = Vec::new();
    for name in list.split(',').map(str::trim) {
        let found = match name.parse::<usize>() {
            Ok(number) => cards.get(number),
            Err(_) if name.is_empty() => None,
            Err(_) => cards.iter().find(|(uuid, _)| uuid.starts_with(name)),
        };
        let Some((_, card)) = found else { break };
        let number = u32::try_from(shown.len()).unwrap_or(u32::MAX);
        shown.push(Card {
            number,
            ..card.clone()
        });
    }
    if shown.is_empty() {
        return Err(format!("{VISIBLE}={list:?} hides every card"));
    }
    Ok(shown)
}

fn why(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            format!("no NVIDIA driver: {LIBRARY} not found")
        }
        NvmlError::DriverNotLoaded => "the NVIDIA driver is installed but not loaded".into(),
        NvmlError::NoPermission => "the NVIDIA driver does not let this user in".into(),
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA driver was updated and not loaded anew: restart the machine".into()
        }
        other => format!("the NVIDIA driver answers: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cards() -> Vec<(String, Card)> {
        ["GPU-aa", "GPU-bb"]
            .into_iter()
            .zip(0..)
            .map(|(uuid, number)| {
                let card = Card {
                    number,
                    name: uuid.into(),
                    memory_bytes: 8 << 30,
                    free_bytes: 1 << 30,
                    driver: "1".into(),
                };
                (uuid.to_owned(), card)
            })
            .collect()
    }

    #[test]
    fn cards_are_shown_as_cuda_shows_them() {
        let names = |list: &str| {
            shown(list, cards()).map(|cards| {
                cards
                    .into_iter()
                    .map(|card| (card.number, card.name))
                    .collect::<Vec<_>>()
            })
        };
        let (a, b) = ("GPU-aa".to_owned(), "GPU-bb".to_owned());
        assert_eq!(names("1,0"), Ok(vec![(0, b.clone()), (1, a.clone())]));
        assert_eq!(names("GPU-b"), Ok(vec![(0, b)]));
        assert_eq!(names("0,-1,1"), Ok(vec![(0, a)]));
        for hidden in ["", "-1", "7", "MIG-x"] {
            assert!(names(hidden).unwrap_err().contains("hides every card"));
        }
    }

    #[test]
    fn a_machine_without_a_driver_is_told_so() {
        let missing = Nvml::builder()
            .lib_path(OsStr::new("libnvidia-ml.so.none"))
            .init()
            .unwrap_err();
        assert_eq!(
            why(&missing),
            "no NVIDIA driver: libnvidia-ml.so.1 not found"
        );
    }
}

//! The NVIDIA GPUs of this machine, from their driver.

use std::ffi::OsStr;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

/// The driver's library, by the name that every driver installs it under.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// Selects the GPUs that CUDA shows to this process, and their order.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The CUDA device number: `cuda:0` is the first.
    pub number: u32,
    /// Product name.
    pub name: String,
    /// Total memory in bytes.
    pub memory_bytes: u64,
    /// Free memory in bytes.
    pub free_bytes: u64,
    /// Version of the NVIDIA driver.
    pub driver: String,
}

/// The NVIDIA driver, or why it is not usable.
pub(crate) struct Driver(Result<Nvml, String>);

impl Driver {
    /// Loads the driver's library.
    pub fn find() -> Self {
        let found = Nvml::builder().lib_path(OsStr::new(LIBRARY)).init();
        Self(found.map_err(|error| explain(&error)))
    }

    /// The GPUs that CUDA shows to this process.
    ///
    /// # Errors
    /// Why there is none.
    pub fn gpus(&self) -> Result<Vec<Gpu>, String> {
        let nvml = self.0.as_ref().map_err(Clone::clone)?;
        let gpus = all(nvml).map_err(|error| explain(&error))?;
        if gpus.is_empty() {
            return Err("the NVIDIA driver finds no GPU".into());
        }
        match std::env::var(VISIBLE) {
            Ok(list) => select_visible(&list, gpus),
            Err(_) => Ok(gpus.into_iter().map(|(_, gpu)| gpu).collect()),
        }
    }
}

/// All GPUs with their UUIDs.
fn all(nvml: &Nvml) -> Result<Vec<(String, Gpu)>, NvmlError> {
    let driver = nvml.sys_driver_version()?;
    (0..nvml.device_count()?)
        .map(|number| {
            let device = nvml.device_by_index(number)?;
            let memory = device.memory_info()?;
            let gpu = Gpu {
                number,
                name: device.name()?,
                memory_bytes: memory.total,
                free_bytes: memory.free,
                driver: driver.clone(),
            };
            Ok((device.uuid()?, gpu))
        })
        .collect()
}

/// Selects the GPUs that a list names, by number or by (a prefix of) their UUID, and renumbers them. Like CUDA, ignores everything
/// after the first name that matches no GPU.
fn select_visible(list: &str, gpus: Vec<(String, Gpu)>) -> Result<Vec<Gpu>, String> {
    let mut shown: Vec<Gpu> = Vec::new();
    for name in list.split(',').map(str::trim) {
        let found = match name.parse::<usize>() {
            Ok(number) => gpus.get(number),
            Err(_) if name.is_empty() => None,
            Err(_) => gpus.iter().find(|(uuid, _)| uuid.starts_with(name)),
        };
        let Some((_, gpu)) = found else { break };
        let number = u32::try_from(shown.len()).unwrap_or(u32::MAX);
        shown.push(Gpu {
            number,
            ..gpu.clone()
        });
    }
    if shown.is_empty() {
        return Err(format!("{VISIBLE}={list:?} hides every GPU"));
    }
    Ok(shown)
}

fn explain(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            format!("no NVIDIA driver: {LIBRARY} not found")
        }
        NvmlError::DriverNotLoaded => "the NVIDIA driver is installed but not loaded".into(),
        NvmlError::NoPermission => "no permission to use the NVIDIA driver".into(),
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA driver was updated but not reloaded: restart the machine".into()
        }
        other => format!("the NVIDIA driver failed: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus() -> Vec<(String, Gpu)> {
        ["GPU-aa", "GPU-bb"]
            .into_iter()
            .zip(0..)
            .map(|(uuid, number)| {
                let gpu = Gpu {
                    number,
                    name: uuid.into(),
                    memory_bytes: 8 << 30,
                    free_bytes: 1 << 30,
                    driver: "1".into(),
                };
                (uuid.to_owned(), gpu)
            })
            .collect()
    }

    #[test]
    fn gpus_are_selected_as_cuda_does() {
        let names = |list: &str| {
            select_visible(list, gpus()).map(|gpus| {
                gpus.into_iter()
                    .map(|gpu| (gpu.number, gpu.name))
                    .collect::<Vec<_>>()
            })
        };
        let (a, b) = ("GPU-aa".to_owned(), "GPU-bb".to_owned());
        assert_eq!(names("1,0"), Ok(vec![(0, b.clone()), (1, a.clone())]));
        assert_eq!(names("GPU-b"), Ok(vec![(0, b)]));
        assert_eq!(names("0,-1,1"), Ok(vec![(0, a)]));
        for hidden in ["", "-1", "7", "MIG-x"] {
            assert!(names(hidden).unwrap_err().contains("hides every GPU"));
        }
    }

    #[test]
    fn a_missing_driver_is_reported() {
        let missing = Nvml::builder()
            .lib_path(OsStr::new("libnvidia-ml.so.none"))
            .init()
            .unwrap_err();
        assert_eq!(
            explain(&missing),
            "no NVIDIA driver: libnvidia-ml.so.1 not found"
        );
    }
}

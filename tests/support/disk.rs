//! Disks that fill up, fail or hang, for a node's data folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::Server;
use crate::skip::{Need, skip};

/// A small file system mounted as the data folder of a node.
pub struct Disk {
    folder: Arc<tempfile::TempDir>,
    image: Option<PathBuf>,
}

impl Disk {
    /// One in memory; nothing where the tests may not mount one.
    pub fn in_memory(mib: u64) -> Result<Option<Self>> {
        let disk = Self::new(None)?;
        let size = format!("size={mib}m,mode=0700");
        Ok(disk.mounted(&["-t", "tmpfs", "-o", &size, "tmpfs"]))
    }

    /// An ext4 one, which can be made to fail or to hang; nothing where the tests may not mount one.
    pub fn ext4(mib: u64) -> Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        let image = folder.path().join("image");
        std::fs::File::create(&image)?.set_len(mib << 20)?;
        let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
        if !made.is_ok_and(|status| status.success()) {
            skip(Need::Mounts, "mkfs.ext4 does not work here");
            return Ok(None);
        }
        let disk = Self::new(Some(folder.keep().join("image")))?;
        let source = image.to_str().context("path")?;
        Ok(disk.mounted(&["-o", "loop", source]))
    }

    fn new(image: Option<PathBuf>) -> Result<Self> {
        let folder = Arc::new(tempfile::tempdir()?);
        std::fs::create_dir(folder.path().join("data"))?;
        Ok(Self { folder, image })
    }

    fn mounted(self, args: &[&str]) -> Option<Self> {
        let mount = Command::new("mount").args(args).arg(self.data()).output();
        if mount.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(self);
        }
        let reason = format!("mount {args:?} does not work here: {mount:?}");
        skip(Need::Mounts, &reason);
        None
    }

    /// Where it is mounted.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A node whose data is on it. It must end before the disk is dropped.
    pub fn serve(&self) -> Result<Server> {
        Server::start_in(self.folder.clone(), Vec::new(), "127.0.0.1:0")
    }

    /// Takes all its room.
    pub fn fill(&self) -> Result<()> {
        use std::io::Write as _;
        let mut filler = std::fs::File::create(self.filler())?;
        for size in [1 << 20, 4096, 1] {
            let block = vec![0; size];
            while filler.write_all(&block).is_ok() {}
        }
        let _ = filler.sync_all();
        Ok(())
    }

    /// Gives the room back.
    pub fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.data().join("filler")
    }

    /// Makes an ext4 disk refuse every write, as the kernel does after an error. That lasts until it is mounted anew.
    pub fn turn_read_only(&self) -> Result<()> {
        run("mount", &["-o", "remount,abort"], &self.data())
    }

    /// Makes every write to an ext4 disk wait.
    pub fn freeze(&self) -> Result<()> {
        run("fsfreeze", &["-f"], &self.data())
    }

    /// Lets writes through again.
    pub fn thaw(&self) -> Result<()> {
        run("fsfreeze", &["-u"], &self.data())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.image.is_some() {
            let _ = Command::new("fsfreeze").arg("-u").arg(self.data()).output();
        }
        let _ = Command::new("umount").arg("-l").arg(self.data()).output();
        if let Some(folder) = self.image.as_deref().and_then(Path::parent) {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

fn run(program: &str, args: &[&str], path: &Path) -> Result<()> {
    let output = Command::new(program).args(args).arg(path).output()?;
    ensure!(output.status.success(), "{program} {args:?}: {output:?}");
    Ok(())
}

impl Server {
    /// A node whose umask lets everybody read and write what it makes.
    pub fn start_with_open_umask() -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let folder = Arc::new(tempfile::tempdir()?);
        let mut command = crate::samovar(folder.path());
        // SAFETY: between fork and exec this calls nothing but umask, which is safe to call there.
        unsafe {
            command.pre_exec(|| {
                libc::umask(0);
                Ok(())
            });
        }
        Self::start_by(command, folder, Vec::new(), "127.0.0.1:0")
    }

    /// Makes every write of the node to a file fail; or lets them through again.
    pub fn refuse_file_writes(&self, refuse: bool) -> Result<()> {
        let soft = if refuse { 0 } else { libc::RLIM_INFINITY };
        let limit = libc::rlimit {
            rlim_cur: soft,
            rlim_max: libc::RLIM_INFINITY,
        };
        let pid = i32::try_from(self.pid())?;
        // SAFETY: the limit is read, and no old one is asked for.
        let done = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
        ensure!(done == 0, "prlimit: {}", std::io::Error::last_os_error());
        Ok(())
    }
}

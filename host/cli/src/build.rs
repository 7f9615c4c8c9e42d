//! Runs a manifest's build command: its output goes to standard error, and all processes that it started end with it.

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};
use samovar_bundle::manifest::Manifest;
use tokio::process::{Child, Command};

/// Time that a build has to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Which processes a terminal's Ctrl-C reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The build and this process.
    Ours,
    /// Only this process; dropping the build stops it.
    Own,
}

/// A running build.
pub struct Build {
    child: Child,
    /// The process group that is ended when this is dropped.
    group: Option<Pid>,
}

impl Build {
    /// Starts a command in the manifest's folder.
    pub fn start(manifest: &Manifest, command: &str, group: Group) -> anyhow::Result<Self> {
        let mut starting = Command::new("sh");
        starting
            .args(["-c", command])
            .current_dir(&manifest.root)
            .stdin(Stdio::null())
            // Standard output is for our own answer.
            .stdout(std::io::stderr())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        if group == Group::Own {
            starting.process_group(0);
        }
        let child = starting
            .spawn()
            .with_context(|| format!("running the build command `{command}`"))?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Self {
            group: id.filter(|_| group == Group::Own).and_then(Pid::from_raw),
            child,
        })
    }

    /// Waits for its end.
    pub async fn wait(mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        // What it left running in the background is its own affair, and its id may be another's soon.
        self.group = None;
        Ok(status)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        let Some(group) = self.group else {
            return;
        };
        // One that is gone already is no trouble.
        let _ = kill_process_group(group, Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < GRACE && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(POLL_INTERVAL);
        }
        let _ = kill_process_group(group, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn manifest(folder: &Path) -> Manifest {
        let file = folder.join("samovar.toml");
        Manifest::parse(&file, "name='m'\ncomponent='m.wasm'").unwrap()
    }

    #[tokio::test]
    async fn it_runs_in_the_manifests_folder_and_says_how_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(folder.path());
        for group in [Group::Ours, Group::Own] {
            let build = Build::start(&manifest, "echo made > m.wasm", group).unwrap();
            assert!(build.wait().await.unwrap().success());
            std::fs::remove_file(folder.path().join("m.wasm")).unwrap();
            let build = Build::start(&manifest, "exit 3", group).unwrap();
            assert_eq!(build.wait().await.unwrap().code(), Some(3));
        }
    }

    #[tokio::test]
    async fn what_it_started_ends_with_it_also_when_it_will_not() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(folder.path());
        let command =
            "trap '' TERM; (sleep 600; echo late > late) & echo $! > pid.new; mv pid.new pid; wait";
        let build = Build::start(&manifest, command, Group::Own).unwrap();
        let pid = folder.path().join("pid");
        while !pid.exists() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let pid = std::fs::read_to_string(pid).unwrap();
        drop(build);
        // Gone, or dead and not yet waited for by whoever inherited it.
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        while stat().is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

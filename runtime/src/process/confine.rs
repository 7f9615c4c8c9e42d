//! Confines a process to a memory limit and to given files, without access to the network and to other processes.
//!
//! Uses rlimits, `no_new_privs`, Landlock and seccomp, as far as the kernel has them. The result lists which barriers are active
//! and why others are not.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use serde::{Deserialize, Serialize};

use super::barrier::Barrier;

/// What a confined process may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Folders and files that the process may read.
    pub read: Vec<PathBuf>,
    /// Folders and files that it may read and write.
    pub write: Vec<PathBuf>,
    /// Private memory in bytes; unlimited if `None`.
    pub memory_bytes: Option<u64>,
}

/// System files that every process may read: about the processor, the memory and itself.
const SYSTEM: [&str; 5] = [
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/self",
    "/sys/devices/system",
    "/sys/fs/cgroup",
];
/// Libraries open it in place of files that they do not need.
const NULL_DEVICE: &str = "/dev/null";

/// What Landlock confines beyond reading and writing files, each with the first version that does.
const LANDLOCK_BEYOND_FILES: [(u32, &str); 3] = [
    (3, "cutting files short"),
    (4, "TCP connections"),
    (6, "signals to other processes"),
];

/// Confines this process. Returns all barriers, active or not.
///
/// # Errors
/// When a barrier that the kernel has cannot be activated.
pub(crate) fn confine(confinement: &Confinement) -> io::Result<Vec<Barrier>> {
    set_limits(confinement)?;
    Ok(vec![
        Barrier::active("rlimits"),
        refuse_new_privileges()?,
        confine_files(confinement).map_err(io::Error::other)?,
        // Last, because it refuses system calls that the others need.
        filter_system_calls().map_err(io::Error::other)?,
    ])
}

/// Keeps programs that this thread, or a thread that it starts later, executes from gaining privileges. The seccomp filter
/// extends this to all other threads.
fn refuse_new_privileges() -> io::Result<Barrier> {
    // SAFETY: sets a flag of this thread, without pointers.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(Barrier::active("no_new_privs")),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_limits(confinement: &Confinement) -> io::Result<()> {
    let at_most = |resource, most: u64| {
        let limit = getrlimit(resource);
        let most = limit.maximum.map_or(most, |maximum| maximum.min(most));
        setrlimit(
            resource,
            Rlimit {
                current: Some(most),
                maximum: Some(most),
            },
        )
    };
    // A core dump would contain request data.
    at_most(Resource::Core, 0)?;
    if let Some(bytes) = confinement.memory_bytes {
        // Limits private memory only; mapped models and memory shared with the node do not count.
        at_most(Resource::Data, bytes)?;
    }
    Ok(())
}

/// Confines this thread, and threads that it starts later, to these files with Landlock, if the kernel has it.
///
/// # Errors
/// When the kernel has Landlock and refuses the rules.
pub(crate) fn confine_files(confinement: &Confinement) -> Result<Barrier, landlock::RulesetError> {
    const NAME: &str = "landlock";
    let abi = ABI::V6;
    let read = AccessFs::from_read(abi);
    let system = SYSTEM.iter().map(PathBuf::from);
    let readable = confinement.read.iter().cloned().chain(system);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(readable, read))?
        .add_rules(path_beneath_rules([NULL_DEVICE], AccessFs::from_file(abi)))?
        .add_rules(path_beneath_rules(
            &confinement.write,
            AccessFs::from_all(abi),
        ))?
        .restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (_, LandlockStatus::NotImplemented) => Barrier::missing(
            NAME,
            "the kernel is built without it (Linux 5.13 and later can have it)",
        ),
        (_, LandlockStatus::NotEnabled) => Barrier::missing(
            NAME,
            "the kernel has it and it is turned off: add `landlock` to its parameter `lsm=`",
        ),
        (RulesetStatus::NotEnforced, _) => {
            Barrier::missing(NAME, "the kernel enforces no rule of it")
        }
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            let version = effective_abi as u32;
            let lacks = LANDLOCK_BEYOND_FILES
                .iter()
                .filter(|(since, _)| *since > version);
            let lacks: Vec<&str> = lacks.map(|(_, what)| *what).collect();
            Barrier {
                version: Some(version),
                reason: (!lacks.is_empty())
                    .then(|| format!("this version of it does not confine {}", lacks.join(", "))),
                ..Barrier::active(NAME)
            }
        }
    })
}

/// Filters the system calls of all threads with seccomp, if the kernel has it.
fn filter_system_calls() -> Result<Barrier, seccompiler::Error> {
    const NAME: &str = "seccomp";
    let Ok(arch) = std::env::consts::ARCH.try_into() else {
        let reason = format!("there is no filter for {}", std::env::consts::ARCH);
        return Ok(Barrier::missing(NAME, reason));
    };
    let action = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    let refused = SeccompFilter::new(
        refused_calls()?,
        SeccompAction::Allow,
        action(libc::EPERM),
        arch,
    )?;
    // `clone3` passes its flags in memory, which no filter can read. Reported as missing, the C library falls back to `clone`.
    let absent = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        action(libc::ENOSYS),
        arch,
    )?;
    for filter in [absent, refused] {
        let program: BpfProgram = filter.try_into()?;
        match seccompiler::apply_filter_all_threads(&program) {
            Ok(()) => {}
            Err(error) => {
                let reason = format!("the kernel takes no filter of system calls: {error}");
                return Ok(Barrier::missing(NAME, reason));
            }
        }
    }
    Ok(Barrier::active(NAME))
}

/// System calls that a confined process must not make: other programs and processes, the network, and ways around the other
/// barriers.
fn refused_calls() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::Error> {
    let mut calls = vec![
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_kill,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_send_signal,
        libc::SYS_pidfd_getfd,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_fork, libc::SYS_vfork]);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        calls.into_iter().map(|call| (call, Vec::new())).collect();
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let no_thread = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(thread),
        0,
    )?;
    let another_process = SeccompRule::new(vec![no_thread])?;
    rules.insert(libc::SYS_clone, vec![another_process]);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    /// Set in the process that confines itself: the folder that it is given.
    const CONFINED: &str = "SAMOVAR_TEST_CONFINED";

    /// Tries what an engine may and may not do, in a process of its own, because confinement cannot be undone.
    #[test]
    fn a_confined_process_reads_its_models_writes_its_caches_and_nothing_else() {
        if let Some(folder) = std::env::var_os(CONFINED) {
            return confine_and_try(Path::new(&folder));
        }
        let folder = tempfile::tempdir().unwrap();
        for name in ["models", "caches", "secrets", "forms"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("file"), name).unwrap();
        }
        std::fs::write(folder.path().join("forms/own"), "").unwrap();
        let test = concat!(
            module_path!(),
            "::a_confined_process_reads_its_models_writes_its_caches_and_nothing_else"
        );
        let (_, test) = test.split_once("::").unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(CONFINED, folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("tried everything"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn confine_and_try(folder: &Path) {
        let confinement = Confinement {
            read: vec![folder.join("models")],
            write: vec![folder.join("caches"), folder.join("forms/own")],
            memory_bytes: Some(1 << 30),
        };
        let active = confine(&confinement).unwrap();
        println!("confined by {active:?}");
        let names: Vec<&str> = active.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["rlimits", "no_new_privs", "landlock", "seccomp"]);
        assert!(active.iter().all(|one| one.active || one.reason.is_some()));
        let has = |name: &str| active.iter().any(|one| one.active && one.name == name);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(has("no_new_privs") && status.contains("NoNewPrivs:\t1"));
        if has("landlock") {
            std::fs::read(folder.join("models/file")).unwrap();
            std::fs::write(folder.join("models/file"), "changed").unwrap_err();
            std::fs::write(folder.join("caches/new"), "made").unwrap();
            std::fs::rename(folder.join("caches/new"), folder.join("caches/old")).unwrap();
            std::fs::write(folder.join("forms/own"), "made").unwrap();
            std::fs::write(folder.join("forms/file"), "changed").unwrap_err();
            std::fs::write(folder.join("forms/other"), "made").unwrap_err();
            std::fs::read(folder.join("secrets/file")).unwrap_err();
            std::fs::read("/etc/passwd").unwrap_err();
            std::fs::hard_link(folder.join("models/file"), folder.join("caches/link")).unwrap_err();
        }
        if has("seccomp") {
            std::net::TcpStream::connect("127.0.0.1:9").unwrap_err();
            let refused = std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
            let program = Command::new("/proc/self/exe").spawn().unwrap_err();
            assert_eq!(program.raw_os_error(), Some(libc::EPERM));
        }
        // What it needs goes on: threads, memory within the limit.
        let thread = std::thread::spawn(|| vec![1u8; 64 << 20].len());
        assert_eq!(thread.join().unwrap(), 64 << 20);
        let mut beyond: Vec<u8> = Vec::new();
        beyond.try_reserve_exact(2 << 30).unwrap_err();
        println!("tried everything");
    }
}

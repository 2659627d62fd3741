//! Which process holds a socket, told by the kernel's lists of open files.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::pods;

/// Whether the process has the socket with this inode open. Costs a look at each of its descriptors.
///
/// # Errors
/// The process is gone (`NotFound`), or may not be looked at.
pub fn holds(pid: u32, inode: u32) -> io::Result<bool> {
    holds_in(Path::new("/proc"), pid, inode)
}

/// The first process by number, outside of all pods and of user root, that has the socket with this inode open. Costs a look at each
/// descriptor of the machine, up to tens of milliseconds.
///
/// # Errors
/// The list of processes cannot be read.
pub fn of_machine(inode: u32) -> io::Result<Option<u32>> {
    let proc = Path::new("/proc");
    let mut pids: Vec<u32> =
        fs::read_dir(proc)?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    Ok(pids.into_iter().find(|pid| {
        let dir = proc.join(pid.to_string());
        fs::metadata(&dir).is_ok_and(|dir| dir.uid() == 0)
            && pods::uid_of(&dir).is_none()
            // One that has just ended holds nothing.
            && holds_in(proc, *pid, inode).unwrap_or(false)
    }))
}

fn holds_in(proc: &Path, pid: u32, inode: u32) -> io::Result<bool> {
    let wanted = format!("socket:[{inode}]");
    let open = fs::read_dir(proc.join(pid.to_string()).join("fd"))?;
    // A descriptor that is closed in between is not the one.
    Ok(open
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|file| file.as_os_str() == wanted.as_str()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::{Command, id};

    use super::*;
    use crate::{NetNs, diag};

    #[test]
    fn a_socket_is_of_the_process_that_made_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let here = NetNs::current().unwrap();
        let found = diag::on_ports(&here, port, None).unwrap();
        let [socket] = &found[..] else { panic!("{found:?}") };
        assert!(holds(id(), socket.inode).unwrap());
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!holds(other.id(), socket.inode).unwrap());
        if nix::unistd::geteuid().is_root() {
            assert_eq!(of_machine(socket.inode).unwrap(), Some(id()));
        }
        drop(listener);
        assert!(!holds(id(), socket.inode).unwrap());
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(holds(other.id(), 1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

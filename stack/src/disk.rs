//! A small disk for the data of one server, for fault tests: a tmpfs, which can be filled.

use crate::error::{Context, Result, failed, usage};
use crate::foreground;
use crate::parts::Part;
use crate::stack::Stack;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Limit of each command. One of them copies the data.
const LIMIT: Duration = Duration::from_secs(300);
/// Largest size of the disk. It is in memory.
const MIB_MAX: u32 = 16 << 10;
/// A file that takes the free space of the disk.
const FILLER: &str = "filler";

/// Moves the data of `part`, which is down, to a disk of its own with `mib` MiB of free space. 0
/// moves them back.
pub fn give(stack: &Stack, part: Part, mib: u32) -> Result<()> {
    let data = data(stack, part)?;
    if stack.is_up(part) {
        return Err(failed(format!("{part} is up: stop it first")));
    }
    if mib > MIB_MAX {
        return Err(usage(format!("disk: {mib}: expected at most {MIB_MAX} MiB")));
    }
    let other = stack.data_dir().join(format!("{part}.other"));
    match (is_mounted(&data)?, mib) {
        (true, 0) => {
            free(stack, part)?;
            copy(&data, &other)?;
            run("umount", [&data])?;
            fs::remove_dir_all(&data).context(data.display())?;
            fs::rename(&other, &data).context(data.display())
        }
        (true, _) => Err(failed(format!("{part} has a disk of its own already"))),
        (false, 0) => Ok(()),
        (false, _) => {
            fs::create_dir_all(&other).context(other.display())?;
            let size = format!("size={MIB_MAX}m");
            let words = ["-t", "tmpfs", "-o", &size, "tmpfs"].map(OsStr::new);
            run("mount", words.into_iter().chain([other.as_os_str()]))?;
            copy(&data, &other)?;
            let size = format!("remount,size={}m", used_mib(&other)? + u64::from(mib));
            run("mount", [OsStr::new("-o"), size.as_ref(), other.as_ref()])?;
            run("mount", [OsStr::new("--bind"), other.as_ref(), data.as_ref()])?;
            run("umount", [&other])?;
            fs::remove_dir(&other).context(other.display())
        }
    }
}

/// Takes all free space of the disk of `part`.
pub fn fill(stack: &Stack, part: Part) -> Result<()> {
    let data = data(stack, part)?;
    if !is_mounted(&data)? {
        return Err(failed(format!("{part} has no disk of its own: stack.sh disk {part} MIB")));
    }
    let path = data.join(FILLER);
    let mut file = File::create(&path).context(path.display())?;
    // Small blocks at the end, so that no page is left.
    for block in [vec![0; 1 << 20], vec![0; 1 << 10]] {
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(err) if err.kind() == io::ErrorKind::StorageFull => break,
                Err(err) => return Err(err).context(path.display()),
            }
        }
    }
    Ok(())
}

/// Ends [`fill`].
pub fn free(stack: &Stack, part: Part) -> Result<()> {
    let path = data(stack, part)?.join(FILLER);
    match fs::remove_file(&path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err).context(path.display()),
        _ => Ok(()),
    }
}

/// Unmounts all disks in `dir`, whose data are lost.
pub fn unmount_all(dir: &Path) -> Result<()> {
    let dir = fs::canonicalize(dir).context(dir.display())?;
    let below = mounts()?.into_iter().filter(|path| path.starts_with(&dir));
    // A disk can be mounted twice if `give` was interrupted.
    below.rev().try_for_each(|path| run("umount", [&path]))
}

fn data(stack: &Stack, part: Part) -> Result<PathBuf> {
    if part.service().is_some() {
        return Err(usage(format!("{part} is a service, it has no data")));
    }
    Ok(stack.data_dir().join(part.to_string()))
}

fn is_mounted(path: &Path) -> Result<bool> {
    let path = fs::canonicalize(path).context(path.display())?;
    Ok(mounts()?.contains(&path))
}

/// All mount points, in the order in which they were mounted, without symbolic links.
fn mounts() -> Result<Vec<PathBuf>> {
    let file = "/proc/self/mounts";
    let text = fs::read_to_string(file).context(file)?;
    // Spaces are octal numbers.
    let points = text.lines().filter_map(|line| line.split(' ').nth(1));
    Ok(points.map(|point| point.replace("\\040", " ").into()).collect())
}

/// Copies a folder and its attributes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).context(to.display())?;
    run("cp", [OsStr::new("--archive"), from.join(".").as_ref(), to.as_ref()])
}

fn used_mib(path: &Path) -> Result<u64> {
    let disk = rustix::fs::statvfs(path).map_err(io::Error::from).context(path.display())?;
    Ok((disk.f_blocks - disk.f_bfree) * disk.f_frsize / (1 << 20))
}

fn run<I: IntoIterator<Item = W>, W: AsRef<OsStr>>(program: &str, words: I) -> Result<()> {
    if foreground::succeeds(Command::new(program).args(words), LIMIT) {
        Ok(())
    } else {
        Err(failed(format!("{program} failed: a disk of its own needs root and enough memory")))
    }
}

//! Clocks that jump, for fault tests, by the library libfaketime.

use crate::error::{Context, Result, failed};
use crate::parts::Part;
use crate::settings;
use crate::stack::Stack;
use std::fs;
use std::path::PathBuf;

/// Sets the clock of `part` by `seconds` from that of the machine.
pub fn set(stack: &Stack, part: Part, seconds: i32) -> Result<()> {
    let has_library = stack.process(part).is_some_and(|process| {
        let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid));
        maps.is_ok_and(|maps| maps.contains("libfaketime"))
    });
    if !has_library {
        return Err(failed(format!("{part} is not running, or was started without FAKE_CLOCK=1")));
    }
    write(stack, part, seconds)
}

/// Variables with which a part has a clock of its own, if `FAKE_CLOCK` is set.
pub fn variables(stack: &Stack, part: Part) -> Result<Vec<(String, String)>> {
    if settings::variable("FAKE_CLOCK")?.is_none() {
        return Ok(Vec::new());
    }
    let library = library().ok_or_else(|| {
        failed("FAKE_CLOCK needs libfaketime: run stack.sh prerequisites chaos as root")
    })?;
    write(stack, part, 0)?;
    let variables = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file(stack, part).display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        // Only the time of day jumps, as on a real machine.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ];
    Ok(variables.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

/// The same as the beginning of PostgreSQL's command line. The library shares memory with the
/// programs that its program starts, so it must not be loaded before PostgreSQL's user is set.
pub fn prefix(stack: &Stack, part: Part) -> Result<Vec<String>> {
    let variables = variables(stack, part)?.into_iter();
    let words = variables.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    Ok(if words.is_empty() { words } else { [vec!["env".to_owned()], words].concat() })
}

/// The variant for programs with threads.
fn library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.filter_map(std::result::Result::ok);
    folders
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file())
}

/// Outside of the folder `run`, which PostgreSQL's user can't read.
fn file(stack: &Stack, part: Part) -> PathBuf {
    stack.dir.join(format!("{part}.clock"))
}

/// Replaces the file at once, since the part reads it all the time.
fn write(stack: &Stack, part: Part, seconds: i32) -> Result<()> {
    let path = file(stack, part);
    // With an ending that `wipe` deletes, as that of the file.
    let new = path.with_extension("new.clock");
    fs::write(&new, format!("{seconds:+}\n")).context(new.display())?;
    fs::rename(&new, &path).context(path.display())
}

//! The results of the performance test and of the footprint comparison. Other programs write these
//! files, and the page shows them.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

/// The file types that are served. All other files in the folders are ignored.
const TYPES: [(&str, &str); 4] = [
    ("csv", "text/csv; charset=utf-8"),
    ("json", "application/json"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
];
const NAME_BYTES_MAX: usize = 100;
const FILES_MAX: usize = 1000;

/// The folders. If several contain a name, the first one is used.
#[derive(Debug)]
pub struct Results(pub Vec<PathBuf>);

/// An entry of the list of results.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ListEntry {
    pub name: String,
    pub bytes: u64,
}

/// An open file.
#[derive(Debug)]
pub struct ResultFile {
    pub file: File,
    pub bytes: u64,
    pub content_type: &'static str,
    pub etag: String,
}

impl Results {
    /// At most [`FILES_MAX`] files, sorted by name. An unreadable folder counts as empty.
    pub fn list(&self) -> Vec<ListEntry> {
        let mut found = BTreeMap::new();
        let entries = self.0.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        for entry in entries.take(100 * FILES_MAX) {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            if content_type(&name).is_some() && metadata.is_file() {
                found.entry(name).or_insert(metadata.len());
            }
        }
        let lines = found.into_iter().take(FILES_MAX);
        lines.map(|(name, bytes)| ListEntry { name, bytes }).collect()
    }

    /// Opens the file of this name if its type is served. Symbolic links are not followed, since
    /// they can lead out of the folder.
    pub fn open(&self, name: &str) -> Option<ResultFile> {
        let content_type = content_type(name)?;
        let is_file = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|it| it.is_file());
        let path = self.0.iter().map(|dir| dir.join(name)).find(is_file)?;
        let file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let (bytes, etag) = (metadata.len(), etag(&metadata));
        Some(ResultFile { file, bytes, content_type, etag })
    }
}

/// The content type of a file; `None` if it is not served. Names that could lead out of the folder
/// are not served.
fn content_type(name: &str) -> Option<&'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.bytes().all(plain) {
        return None;
    }
    let (_, extension) = name.rsplit_once('.')?;
    TYPES.iter().find(|(known, _)| *known == extension).map(|(_, content_type)| *content_type)
}

/// From size and modification time.
fn etag(metadata: &Metadata) -> String {
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("\"{:x}-{:x}\"", metadata.len(), modified.unwrap_or_default().as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn served_names_are_plain_with_known_type() {
        for name in ["latency.svg", "run-1_a.b.csv", "0.json", "A.png"] {
            assert!(content_type(name).is_some(), "{name}");
        }
        let long = format!("{}.csv", "a".repeat(NAME_BYTES_MAX));
        for name in [
            "",
            ".",
            "..",
            ".svg",
            ".a.svg",
            "../a.svg",
            "a/../b.svg",
            "/etc/a.svg",
            "..\\a.svg",
            "a\0.svg",
            "%2e%2e%2fa.svg",
            "a b.svg",
            "a.svg/",
            "ä.svg",
            "a.SVG",
            "a.html",
            "a.js",
            "a",
            "a.svg.",
            &long,
        ] {
            assert_eq!(content_type(name), None, "{name:?}");
        }
    }

    #[test]
    fn missing_folder_is_empty() {
        let results = Results(vec!["/nowhere/at/all".into()]);
        assert_eq!(results.list(), []);
        assert!(results.open("a.svg").is_none());
    }
}

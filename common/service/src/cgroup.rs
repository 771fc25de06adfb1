//! The limits of the container or cgroup of this process. Source: Linux, cgroup-v2.rst.

use std::fs;
use std::path::{Path, PathBuf};

/// Root of the control groups, version 2. A container sees its own group there.
const ROOT: &str = "/sys/fs/cgroup";

/// The memory limit in bytes. `None` without a limit.
pub fn memory_max() -> Option<u64> {
    smallest(&groups(), "memory.max")
}

/// The maximum number of threads. `None` if there is no limit.
pub fn threads_max() -> Option<u64> {
    smallest(&groups(), "pids.max")
}

/// The group of this process and those around it.
fn groups() -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = Path::new(ROOT).join(path);
    own.ancestors().take_while(|it| it.starts_with(ROOT)).map(Path::to_owned).collect()
}

fn smallest(groups: &[PathBuf], file: &str) -> Option<u64> {
    let limits = groups.iter().filter_map(|group| fs::read_to_string(group.join(file)).ok());
    // Without a limit the file contains the word "max".
    limits.filter_map(|limit| limit.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smallest_limit_of_all_groups_counts() {
        let root = std::env::temp_dir().join(format!("cgroup-test-{}", std::process::id()));
        let groups = [root.join("a/b"), root.join("a"), root.clone()];
        fs::create_dir_all(&groups[0]).unwrap();
        for (group, limit) in groups.iter().zip(["max\n", "33554432\n", "67108864\n"]) {
            fs::write(group.join("memory.max"), limit).unwrap();
        }
        assert_eq!(smallest(&groups, "memory.max"), Some(32 << 20));
        assert_eq!(smallest(&groups[..1], "memory.max"), None);
        assert_eq!(smallest(&groups, "pids.max"), None);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn groups_of_this_process_start_at_the_root() {
        assert!(groups().iter().all(|group| group.starts_with(ROOT)));
    }
}

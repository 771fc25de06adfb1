//! Checks that the deployment files are closed until they are configured:
//! docs/decisions/0021-closed-by-default.md.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Path and text of the Compose files and of all files in deploy/.
fn files() -> Vec<(String, String)> {
    let mut paths = vec![root().join("compose.yml"), root().join("compose.edge.yml")];
    let mut folders = vec![root().join("deploy")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder was listed") {
            let path = entry.expect("the folder is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                paths.push(path);
            }
        }
    }
    // Compiled Python files are not text.
    let text = |path: PathBuf| Some((path.display().to_string(), fs::read_to_string(path).ok()?));
    paths.into_iter().filter_map(text).collect()
}

/// The lines for which `is_wrong` returns true, with their files.
fn wrong_lines(is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in files() {
        let lines = text.lines().filter(|line| is_wrong(line));
        wrong.extend(lines.map(|line| format!("{path}: {}", line.trim())));
    }
    wrong
}

/// The values after `key` in `line`: of YAML and of environment files.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (before, after) = line.split_once(key)?;
    let is_key = before.trim_start_matches([' ', '-', '#']).is_empty();
    is_key.then(|| after.trim())
}

fn has_default_password(line: &str) -> bool {
    ["_PASSWORD", "_TOKEN"].iter().any(|suffix| {
        let Some((_, after)) = line.split_once(suffix) else { return false };
        let given = after.strip_prefix(':').or_else(|| after.strip_prefix('='));
        let given = given.map(|it| it.trim().trim_matches(['\'', '"']));
        given.is_some_and(|it| {
            // Empty, three dots in a comment, or required.
            !(it.is_empty() || it.starts_with("...") || it.contains(":?"))
        })
    })
}

fn has_password_in_url(line: &str) -> bool {
    line.split("postgres://").skip(1).any(|url| {
        url.split_once('@').is_some_and(|(role, _)| role.contains(':') || role.contains('{'))
    })
}

#[test]
fn passwords_have_no_defaults() {
    assert_eq!(wrong_lines(has_default_password), [""; 0]);
    assert_eq!(wrong_lines(has_password_in_url), [""; 0]);
    assert!(has_default_password("      POSTGRES_PASSWORD: ${BANK_PASSWORD:-bank}"));
    assert!(has_default_password("DATABASE_PASSWORD=secret"));
    assert!(has_default_password("      COMPANY_TOKEN: ${COMPANY_TOKEN:-00000000000000000000}"));
    assert!(!has_default_password("      COMPANY_TOKEN: ${COMPANY_TOKEN:?20 digits}"));
    assert!(has_password_in_url("DATABASE_URL: postgres://bank:${BANK_PASSWORD:-bank}@postgres/x"));
}

#[test]
fn images_are_local_or_name_their_registry() {
    let is_foreign = |line: &str| {
        let is_ours = |image: &str| {
            ["${IMAGE_PREFIX:-localhost/scratchbank}/", "localhost/scratchbank/", "docker.io/"]
                .iter()
                .any(|prefix| image.starts_with(prefix))
        };
        let in_yaml = value(line, "image: ").is_some_and(|image| !is_ours(image));
        // Names in scripts and in deploy/k8s/kustomization.yaml.
        let bare = ["\"scratchbank/", " scratchbank/"].iter().any(|name| line.contains(name));
        in_yaml || bare
    };
    assert_eq!(wrong_lines(is_foreign), [""; 0]);
    assert!(is_foreign("    image: scratchbank/edge:0.1.0"));
    assert!(is_foreign("docker run scratchbank/edge"));
}

#[test]
fn published_ports_are_on_loopback_by_default() {
    let is_open = |line: &str| {
        value(line, "ports: ").is_some_and(|ports| {
            !["[\"127.0.0.1:", "[\"${PUBLISH_ADDR:-127.0.0.1}:"]
                .iter()
                .any(|it| ports.starts_with(it))
        })
    };
    assert_eq!(wrong_lines(is_open), [""; 0]);
    assert!(is_open("    ports: [\"8888:8888\"]"));
    let published = |text: &str| text.matches("[\"${PUBLISH_ADDR:-127.0.0.1}:").count();
    let published: usize = files().iter().map(|(_, text)| published(text)).sum();
    assert_eq!(published, 4, "endpoint and frontend, in both Compose files");
}

/// Each port of a pod, and each client of a server, is in a rule of the network policies.
#[test]
fn network_policies_name_every_service() {
    let text = fs::read_to_string(root().join("deploy/k8s/network-policies.yaml")).unwrap();
    let policies: Vec<&str> = text.split("\n---\n").collect();
    let policy = |name: &str| {
        let of = policies.iter().find(|it| it.contains(&format!("\n  name: {name}\n")));
        *of.unwrap_or_else(|| panic!("{name} is missing"))
    };
    assert!(policy("default-deny").contains("podSelector: {}\n  policyTypes: [Ingress, Egress]"));
    for service in edge::SERVICES {
        let has = |variable: &str| {
            service.variables.iter().copied().flatten().any(|it| it.name == variable)
        };
        let listed = |name: &str| policy(name).contains(service.name);
        let name = service.name;
        assert_eq!(listed("clients-of-kafka-and-registry"), has("KAFKA_BROKERS"), "{name}");
        assert_eq!(listed("kafka"), has("KAFKA_BROKERS"), "{name}");
        assert_eq!(listed("registry"), has("SCHEMA_REGISTRY_URL"), "{name}");
        assert_eq!(listed("clients-of-postgres"), has("DATABASE_URL"), "{name}");
        assert_eq!(listed("postgres"), has("DATABASE_URL"), "{name}");
        assert_eq!(listed("web"), has("GRAPHQL_PORT") || has("FRONTEND_PORT"), "{name}");
        // The synchronizer runs once and has no health port.
        assert_eq!(listed("metrics"), name != "synchronizer", "{name}");
    }
    // The control port of the heartbeat is reached by port-forward only.
    assert!(!text.contains("port: control") && !text.contains("17888"));
}

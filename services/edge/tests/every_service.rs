//! Checks that each service is in each place that lists the services. CONTRIBUTING.md refers to
//! this test: it names what a new service lacks.

use std::fs;
use std::path::{Path, PathBuf};

/// Files that name every service. `NAME` is replaced by the name of the service.
const PLACES: [&str; 11] = [
    "Cargo.toml",
    "README.md",
    "ARCHITECTURE.md",
    "compose.yml",
    "compose.edge.yml",
    "deploy/images/test.sh",
    "deploy/k8s/kustomization.yaml",
    "deploy/k8s/NAME.yaml",
    "docs/configuration.md",
    "services/NAME/README.md",
    "stack/src/parts.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn services_are_in_every_list() {
    let mut missing = Vec::new();
    for service in edge::SERVICES {
        for place in PLACES {
            let place = place.replace("NAME", service.name);
            let text = fs::read_to_string(root().join(&place)).unwrap_or_default();
            if !text.contains(service.name) {
                missing.push(format!("{place} does not name {}", service.name));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn service_folders_are_in_the_edge_binary() {
    for folder in fs::read_dir(root().join("services")).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "edge" || edge::SERVICES.iter().any(|service| service.name == name),
            "services/edge/src/lib.rs: SERVICES does not have {name}"
        );
    }
}

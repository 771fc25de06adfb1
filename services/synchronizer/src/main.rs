//! The service is in the library, because the crate `edge` links all services into one binary.

fn main() -> std::process::ExitCode {
    service::main(&synchronizer::SERVICE)
}

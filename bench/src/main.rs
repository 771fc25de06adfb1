//! See the crate's library.

fn main() -> std::process::ExitCode {
    bench::main()
}

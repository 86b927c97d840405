//! argv -> [`lapo::cli::run`] -> exit code.

fn main() -> std::process::ExitCode {
    lapo::cli::run()
}

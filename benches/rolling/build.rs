fn main() -> Result<(), Box<dyn std::error::Error>> {
    const DIRECTORY: &str = "../../examples/tonic";
    println!("cargo::rerun-if-changed={DIRECTORY}/greeter.proto");
    let files = protox::compile(["greeter.proto"], [DIRECTORY])?;
    // The clients of this package are hand-made.
    Ok(tonic_prost_build::configure()
        .build_client(false)
        .compile_fds(files)?)
}

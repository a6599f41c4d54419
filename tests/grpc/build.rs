fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=gate.proto");
    let files = protox::compile(["gate.proto"], ["."])?;
    Ok(tonic_prost_build::compile_fds(files)?)
}

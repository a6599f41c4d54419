fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../examples/tonic/greeter.proto");
    let files = protox::compile(["greeter.proto"], ["../../examples/tonic"])?;
    Ok(tonic_prost_build::compile_fds(files)?)
}

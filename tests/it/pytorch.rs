//! The guide's PyTorch loader: its networks give the latent actions and codes of lapo.

use std::fs;
use std::path::Path;
use std::process::Command;

use lapo::models::{Device, Preset, actor};
use serde_json::json;

use crate::onnx::{MODELS, file, files, floats, frames, policy, project, run, write};

/// Compares the networks with labels and with a policy's answers.
const CHECK: &str = r#"
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq
def frames_of(path):
    pixels = pa.ipc.open_file(path).read_all()["pixels"].combine_chunks()
    pixels = pixels if hasattr(pixels, "to_numpy_ndarray") else pixels.chunk(0)
    return pixels.to_numpy_ndarray()

cases = json.loads(sys.argv[1])
shards = {digest: frames_of(path) for digest, path in cases["shards"].items()}
for case in cases["models"]:
    network, config = load(case["weights"])
    time = config["context"] + 2
    rows = pa.concat_tables(pq.read_table(path) for path in case["labels"]).slice(0, 500)
    assert rows.num_rows == 500
    windows = np.stack([shards[shard][row - time + 2 : row + 2]
                        for shard, row in zip(rows["shard"].to_pylist(), rows["row"].to_pylist())])
    with torch.no_grad():
        latent = network(torch.from_numpy(windows))
        codes = network.codes(latent).numpy()
    want = np.array(rows["latent_action"].to_pylist(), np.float32)
    difference = np.abs(latent.numpy() - want).max()
    assert difference < 1e-4 and want.std(0).max() > 1e-3, (case, difference)
    equal = (codes == np.array(rows["latent_code"].to_pylist())).mean()
    assert equal > 0.99 or case["continuous"], (case, equal)
    print(case["weights"].rsplit("/", 1)[-1], config["idm_head"], f"{difference:.1e}", equal)
for case in cases["policies"]:
    network, config = load(case["weights"])
    pixels = np.fromfile(case["frames"], np.uint8).reshape(-1, 1, 16, 16, 3)
    with torch.no_grad():
        latent = network(torch.from_numpy(pixels)).numpy()
    want = np.fromfile(case["latent"], np.float32).reshape(latent.shape)
    assert np.abs(latent - want).max() < 1e-4 and len(want) == 100
print("all checks passed")
"#;

/// Returns the loader of the guide.
fn loader() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide/pytorch.md");
    let page = fs::read_to_string(page).unwrap();
    let block = page.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(block.lines().filter(|line| !line.is_empty()).count() <= 60, "{block}");
    block.to_owned()
}

#[test]
fn the_guides_loader_gives_the_latent_actions_of_lapo() {
    let loader = loader();
    let Ok(python) = std::env::var("LAPO_LEROBOT") else {
        return println!(
            "skipped: LAPO_LEROBOT names no Python with `lerobot`, and so with PyTorch"
        );
    };
    let project = project(64);
    let stages = MODELS.map(|(name, settings)| {
        format!(
            "  {name}: {{ train_dynamics: {{ frames: frames, steps: 5, batch: 16, \
             {settings} }} }}\n  \
             labels_{name}: {{ label: {{ frames: frames, dynamics: {name}, fdm_error: false }} }}\n"
        )
    });
    run(&project, &stages.concat());
    let full = |path: &String| project.path(path).to_str().unwrap().to_owned();
    let model = |(name, _): (&str, &str)| {
        let labels = files(&project, &format!("labels_{name}"), "labels.parquet");
        json!({"weights": file(&project, name, ".safetensors"), "continuous": name == "continuous",
            "labels": labels.iter().map(|(path, _)| full(path)).collect::<Vec<_>>()})
    };
    let shards: serde_json::Map<_, _> = files(&project, "frames", ".arrow")
        .iter()
        .map(|(path, digest)| (digest.clone(), full(path).into()))
        .collect();
    let pixels = frames(&project, 100);
    let input = write(&project, "frames.bin", &pixels);
    let cloned = |preset: Preset| {
        let weights = policy(preset);
        let latent = actor(&Device::Cpu, &weights).unwrap().latent_action(&pixels).unwrap();
        json!({"weights": write(&project, &format!("{preset}.safetensors"), &weights),
            "frames": input, "latent": floats(&project, &format!("{preset}.bin"), &latent)})
    };
    let policies = [Preset::Tiny, Preset::Small].map(cloned);
    let cases = json!({"models": MODELS.map(model), "shards": shards, "policies": policies});
    let output = Command::new(python)
        .args(["-c", &format!("{loader}{CHECK}"), &cases.to_string()])
        .output()
        .expect("LAPO_LEROBOT runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:#?}");
    assert!(printed.ends_with("all checks passed\n"), "{output:#?}");
    println!("{printed}");
}

//! README and guide: every command in a `console` block succeeds and prints what the page shows.
//!
//! A page's block has commands after `$ ` and, below each, its output. `...` stands for any text.
//! Numbers, sizes and digests may differ. All pages share one folder, README first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A command of a page, and the output that the page shows below it.
struct Example {
    command: String,
    output: String,
}

#[test]
fn commands_of_readme_and_guide_print_what_the_pages_show() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let mut commands = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        write_files(&text, folder.path(), &[]);
        for Example { command, output } in examples(&text, "console") {
            let (code, printed) = run(folder.path(), &command);
            assert_eq!(code, 0, "{}: {command}\n{printed}", page.display());
            assert!(
                matches(&normalise(&output), &normalise(&printed)),
                "{}: {command}\nprinted:\n{printed}\nexpected:\n{output}",
                page.display()
            );
            commands += 1;
        }
    }
    assert!(commands > 15, "only {commands} commands were found");
}

#[test]
fn the_pipeline_in_the_readme_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    link_data(folder.path());
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```yaml\n").expect("README has a pipeline");
    let (yaml, _) = rest.split_once("```").unwrap();
    fs::write(folder.path().join("pipeline.yaml"), yaml).unwrap();
    let (code, printed) = run(folder.path(), "lapo check pipeline.yaml");
    assert_eq!(code, 0, "{printed}");
}

/// Runs the examples of the guide's page on fleets for an engine, whose blocks begin with
/// `console ENGINE`. Files that the page shows, such as `slurm.yaml`, are written first, with
/// `replaced` in them.
pub fn check_fleet_examples(
    engine: &str,
    folder: &Path,
    replaced: &[(&str, &str)],
    run: impl Fn(&str) -> (i32, String),
) {
    let page = fs::read_to_string(root().join("src/guide/fleet.md")).unwrap();
    write_files(&page, folder, replaced);
    let examples = examples(&page, &format!("console {engine}"));
    assert!(!examples.is_empty(), "{engine}");
    for Example { command, output } in examples {
        let (code, printed) = run(&command);
        assert_eq!(code, 0, "{command}\n{printed}");
        let is_right = matches(&normalise(&output), &normalise(&printed));
        assert!(is_right, "{command}\nprinted:\n{printed}\nexpected:\n{output}");
    }
}

/// Writes the blocks of YAML that begin with a file's name as a comment.
fn write_files(page: &str, folder: &Path, replaced: &[(&str, &str)]) {
    for block in page.split("```yaml\n# ").skip(1) {
        let (name, rest) = block.split_once('\n').unwrap();
        if !name.ends_with(".yaml") || name.contains(' ') {
            continue;
        }
        let (text, _) = rest.split_once("```").expect("the block ends");
        let text = replaced.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        fs::write(folder.join(name), text).unwrap();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns README and the guide's pages, in the order of their names.
fn pages() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("src/guide")).unwrap();
    let mut pages: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    pages.insert(0, root().join("README.md"));
    pages
}

/// Returns the examples in the blocks of a page that begin with ```` ```FENCE ````.
fn examples(page: &str, fence: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for block in page.split(&format!("```{fence}\n")).skip(1) {
        let (block, _) = block.split_once("```").expect("the block ends");
        let before = examples.len();
        for line in block.lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                examples.push(Example { command: command.into(), output: String::new() });
            } else {
                assert!(examples.len() > before, "a block begins with output: {line}");
                examples.last_mut().unwrap().output += &format!("{line}\n");
            }
        }
    }
    examples
}

/// Prepares what the pages assume: the repository's pipelines and data, a finished quickstart, 20
/// clips in `clips`, and five others in `new`.
fn prepare(folder: &Path) {
    link_data(folder);
    for (name, games) in [("clips", 0..20), ("new", 20..25)] {
        fs::create_dir(folder.join(name)).unwrap();
        for game in games {
            let clip = format!("maze_1_{game:03}.mp4");
            let from = root().join("data/maze").join(&clip);
            fs::copy(from, folder.join(name).join(&clip)).unwrap();
        }
    }
    fs::create_dir(folder.join("pipelines")).unwrap();
    for file in fs::read_dir(root().join("pipelines")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.join("pipelines").join(file.file_name())).unwrap();
    }
    let (code, printed) = run(folder, "lapo run pipelines/quickstart.yaml");
    assert_eq!(code, 0, "{printed}");
}

fn link_data(folder: &Path) {
    std::os::unix::fs::symlink(root().join("data"), folder.join("data")).unwrap();
}

/// Runs a command in a shell. Returns its exit code and everything it prints.
fn run(folder: &Path, command: &str) -> (i32, String) {
    let lapo = Path::new(env!("CARGO_BIN_EXE_lapo")).parent().unwrap();
    let path = format!("{}:{}", lapo.display(), std::env::var("PATH").unwrap());
    shorten_trainings(folder);
    shorten_trainings(&folder.join("pipelines"));
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1\n{}", shortened(command))])
        .current_dir(folder)
        .env("PATH", path)
        .env_remove("LAPO_WORKSPACE")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Replaces the 300 steps of pipelines by two, so that the pages run in seconds.
fn shortened(text: &str) -> String {
    text.replace("steps: 300", "steps: 2")
}

fn shorten_trainings(folder: &Path) {
    for file in fs::read_dir(folder).into_iter().flatten() {
        let file = file.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "yaml") {
            let text = fs::read_to_string(&file).unwrap();
            fs::write(&file, shortened(&text)).unwrap();
        }
    }
}

/// Replaces numbers by `0`, digests by `#` and units of size by `B`, and joins words by single
/// spaces.
fn normalise(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(normalise_word).collect();
    let mut text = words.join(" ");
    for unit in ["KiB", "MiB", "GiB"] {
        text = text.replace(unit, "B");
    }
    text
}

fn normalise_word(word: &str) -> String {
    let mut normal = String::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let hex = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        let number = number_length(rest);
        let length = if hex >= 16 {
            normal.push('#');
            hex
        } else if number > 0 {
            normal.push('0');
            number
        } else {
            normal.push(first);
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    normal
}

/// Returns the length of the number at the start of `text`, such as `4,508` or `6.1e-5`; 0 if there
/// is none.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut length = 0;
    while is_digit(length) {
        length += 1;
        let is_inner = matches!(bytes.get(length), Some(b'.' | b','));
        let is_exponent = bytes.get(length) == Some(&b'e') && bytes.get(length + 1) == Some(&b'-');
        if is_inner && is_digit(length + 1) {
            length += 1;
        } else if is_exponent && is_digit(length + 2) {
            length += 2;
        }
    }
    length
}

/// Returns whether `text` is `pattern`, in which each `...` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let pieces: Vec<&str> = pattern.split("...").map(str::trim).collect();
    let (first, last) = (pieces[0], pieces[pieces.len() - 1]);
    if pieces.len() == 1 {
        return first == text;
    }
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for piece in &pieces[1..pieces.len() - 1] {
        let Some((_, after)) = rest.split_once(piece) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[test]
fn numbers_and_digests_may_differ_and_dots_stand_for_any_text() {
    let shown = "19 tasks: 240 videos, 4,508 frames ... 6.14e-5\n...\n  13.5 MiB, end";
    let printed = "3 tasks: 20 videos,  77 frames in 1.9 s 0.2\n a\n b 884 KiB, end\n";
    assert!(matches(&normalise(shown), &normalise(printed)));
    assert!(!matches(&normalise(shown), &normalise("3 tasks: 20 videos")));
    assert!(!matches("a", "a b") && matches("a ...", "a b") && !matches("... a", "a b"));
    assert_eq!(normalise("data/215f75d42d4bd802/labels.parquet"), "data/#/labels.parquet");
}

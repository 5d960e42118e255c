//! Each deliberate fault of the core is caught by the simulated worlds and their tests.
//!
//! The pure modules and their tests are copied into a package of their own under the target folder; one mutation after the
//! other is applied to the copy, built and run. A mutation whose text isn't found exactly once, or whose mutant isn't built,
//! is a failure: the list follows the code. `SETGATE_MUTATIONS=all` tries them all, as `make mutations` does, another word those
//! that have it in their names; without it none is tried.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

mod list;

use crate::list::{By, MUTATIONS, Mutation};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The core, and nothing else of `src`.
const PURE: [&str; 7] = [
    "amqp", "failover", "lane", "link", "model", "routing", "rules",
];

/// Within so many seeds each is caught: those that the world's own test tries.
const SEEDS: u32 = 256;

/// The copy without a fault only shows that it works.
const SEEDS_WHOLE: u32 = 8;

#[test]
fn each_mutation_has_its_place_in_the_core() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let faults: Vec<_> = MUTATIONS
        .iter()
        .filter_map(|mutation| {
            let text = fs::read_to_string(root.join("src").join(mutation.file)).unwrap();
            mutation.apply(&text).err()
        })
        .collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn each_mutation_of_the_core_is_caught() {
    let said = std::env::vars().find(|(name, _)| name == "SETGATE_MUTATIONS");
    let Some((_, wanted)) = said else {
        // Each costs a build: that they have their places is all that is looked at without being asked.
        return;
    };
    let is_wanted = |mutation: &&Mutation| wanted == "all" || mutation.name.contains(&wanted);
    let copy = Copy::make();
    for by in [By::Units, By::Lane, By::Receiver] {
        let whole = copy.run(by, &copy.build(by).unwrap(), SEEDS_WHOLE);
        assert!(whole.status.success(), "{by:?} fails without a mutation");
    }
    let mut escaped = Vec::new();
    for mutation in MUTATIONS.iter().filter(is_wanted) {
        match copy.try_out(mutation) {
            Ok(how) => println!("{}: {how}", mutation.name),
            Err(why) => escaped.push(format!("{} ({}): {why}", mutation.name, mutation.file)),
        }
    }
    assert!(escaped.is_empty(), "\n{}\n", escaped.join("\n"));
}

impl Mutation {
    /// The text with the fault in it.
    fn apply(&self, text: &str) -> Result<String, String> {
        let mut mutated = text.to_owned();
        for (from, to) in self.edits {
            let found = text.matches(from).count();
            if found != 1 {
                let (name, file) = (self.name, self.file);
                return Err(format!(
                    "{name}: found {found} times, and not once, in src/{file}: {from:?}"
                ));
            }
            mutated = mutated.replacen(from, to, 1);
        }
        Ok(mutated)
    }
}

/// The core and its world, in a package of their own.
struct Copy {
    root: PathBuf,
    target: PathBuf,
}

impl Copy {
    fn make() -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let copy = Self {
            root: target.join("mutations"),
            target: target.to_owned(),
        };
        for folder in PURE {
            let folder = Path::new("src").join(folder);
            copy_folder(&from.join(&folder), &copy.root.join(&folder));
        }
        for folder in ["tests/world", "tests/lane", "tests/shared"] {
            copy_folder(&from.join(folder), &copy.root.join(folder));
        }
        let modules = PURE.map(|name| format!("pub mod {name};\n"));
        write(&copy.root.join("src/lib.rs"), &modules.concat());
        let manifest = fs::read_to_string(from.join("Cargo.toml")).unwrap();
        write(&copy.root.join("Cargo.toml"), &manifest_of(&manifest));
        let lock = fs::read_to_string(from.join("Cargo.lock")).unwrap();
        write(&copy.root.join("Cargo.lock"), &lock);
        copy
    }

    /// Builds the copy as it is: the executable of these tests.
    fn build(&self, by: By) -> Result<PathBuf, String> {
        let (target, chosen): (_, &[&str]) = match by {
            By::Units => ("world", &["--test", "world"]),
            By::Lane => ("lane", &["--test", "lane"]),
            By::Receiver => ("setgate", &["--lib"]),
        };
        let mut cargo = Command::new(env!("CARGO"));
        // What a test is told of its package would have dependencies that look at it built again.
        for (name, _) in std::env::vars().filter(|(name, _)| is_of_package(name)) {
            cargo.env_remove(name);
        }
        let output = cargo
            .args(["test", "--quiet", "--offline", "--locked", "--no-run"])
            .arg("--message-format=json-render-diagnostics")
            .args(chosen)
            .arg("--manifest-path")
            .arg(self.root.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&self.target)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let built = said.lines().find_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let is_it = message["target"]["name"] == target;
            let executable = message["executable"].as_str().filter(|_| is_it)?;
            Some(PathBuf::from(executable))
        });
        let errors = String::from_utf8_lossy(&output.stderr);
        built
            .filter(|_| output.status.success())
            .ok_or_else(|| format!("it isn't built:\n{errors}"))
    }

    fn run(&self, by: By, tests: &Path, seeds: u32) -> Output {
        let filter = match by {
            By::Units | By::Lane => "",
            By::Receiver => "link::receiver::",
        };
        Command::new(tests)
            .arg(filter)
            .current_dir(&self.root)
            .env_remove("SETGATE_SEED")
            .env("SETGATE_SEEDS", seeds.to_string())
            .env("SETGATE_EVENTS", "1")
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap()
    }

    /// How a mutation is caught, or why it isn't.
    fn try_out(&self, mutation: &Mutation) -> Result<String, String> {
        let file = self.root.join("src").join(mutation.file);
        let text = fs::read_to_string(&file).unwrap();
        write(&file, &mutation.apply(&text)?);
        let by = mutation.by;
        let built = self.build(by);
        let ran = built.map(|tests| self.run(by, &tests, SEEDS));
        write(&file, &text);
        let ran = ran?;
        let said = String::from_utf8_lossy(&ran.stdout);
        let said = format!("{said}{}", String::from_utf8_lossy(&ran.stderr));
        let mut lines = said
            .lines()
            .skip_while(|line| !line.contains("panicked at"));
        match (ran.status.success(), lines.next(), lines.next()) {
            (true, ..) => Err("it isn't caught".to_owned()),
            (false, Some(_), Some(why)) => Ok(why.to_owned()),
            (false, ..) => Err(format!("it ends without an assertion:\n{said}")),
        }
    }
}

fn is_of_package(variable: &str) -> bool {
    [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
    ]
    .iter()
    .any(|beginning| variable.starts_with(beginning))
}

/// The dependencies and profiles of the real manifest, so that all that is built already is used again.
fn manifest_of(manifest: &str) -> String {
    let mut wanted = "[package]\nname = \"setgate\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
                      publish = false\n\n[workspace]\n\n"
        .to_owned();
    let mut is_wanted = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            let kept = ["[dependencies]", "[dev-dependencies]", "[profile.dev"];
            is_wanted = kept.iter().any(|section| line.starts_with(section));
        }
        if is_wanted {
            wanted.push_str(line);
            wanted.push('\n');
        }
    }
    wanted
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            write(&to, &fs::read_to_string(entry.path()).unwrap());
        }
    }
}

/// Leaves a file alone that says it already: it needs no new build.
fn write(file: &Path, text: &str) {
    if fs::read_to_string(file).is_ok_and(|there| there == text) {
        return;
    }
    fs::write(file, text).unwrap();
}

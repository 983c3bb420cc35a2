//! What the documents list is what there is: settings, and links between files.

use super::none;
use super::sources::{files, read, root, sources};

/// The keys of the config file, from the structs that read it: `section.key`.
fn config_keys(code: &str) -> Vec<String> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in code.lines() {
        if let Some(name) = line.strip_prefix("struct ") {
            section = name.split(' ').next().unwrap_or_default().to_lowercase();
        } else if line == "}" {
            section.clear();
        }
        let field = line
            .strip_prefix("    ")
            .and_then(|line| line.split_once(": Option<"));
        if let Some((key, _)) = field.filter(|_| !section.is_empty()) {
            keys.push(format!("{section}.{key}"));
        }
    }
    keys
}

/// The names of environment variables in `text`.
fn variables(text: &str) -> Vec<&str> {
    let found = text.match_indices("MAINSTAY_").map(|(at, _)| {
        let rest = &text[at..];
        let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    });
    found.filter(|name| !name.ends_with('_')).collect()
}

/// The targets of links to other files in a document.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets
        .filter(|target| !target.contains("://") && !target.starts_with('#'))
        .collect()
}

#[test]
fn every_key_of_the_config_file_is_documented() {
    let keys = config_keys(&read("src/config/file.rs"));
    assert!(keys.contains(&"node.name".to_owned()), "{keys:?}");
    let document = read("docs/config.md");
    let bare = keys
        .into_iter()
        .filter(|key| !document.contains(&format!("| `{key}` |")));
    none("not in docs/config.md", &bare.collect::<Vec<_>>());
}

#[test]
fn every_environment_variable_is_documented() {
    let document = read("docs/config.md");
    let mut bare = Vec::new();
    for source in sources().iter().filter(|source| source.is_in("src")) {
        let names = variables(&source.text).into_iter();
        let names = names.filter(|name| !document.contains(&format!("`{name}`")));
        bare.extend(names.map(|name| format!("{name} of {}", source.path)));
    }
    none("not in docs/config.md", &bare);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for path in files().into_iter().filter(|path| path.ends_with(".md")) {
        let text = read(&path);
        let folder = root().join(&path);
        let folder = folder.parent().expect("a file lies in a folder");
        let lost = links(&text)
            .into_iter()
            .filter(|target| !folder.join(target).exists());
        broken.extend(lost.map(|target| format!("{path}: {target}")));
    }
    none("links to nothing", &broken);
}

#[test]
fn keys_variables_and_links_are_found() {
    let code = "struct Wal {\n    keep_size: Option<Size>,\n}\n    x: Option<u8>\n";
    assert_eq!(config_keys(code), ["wal.keep_size"]);
    assert_eq!(
        variables("env = \"MAINSTAY_ON_MISS\", MAINSTAY_*"),
        ["MAINSTAY_ON_MISS"]
    );
    assert_eq!(links("[a](b.md), [c](https://d), [e](#f)"), ["b.md"]);
}

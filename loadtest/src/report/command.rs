//! The command line of a run for its report, without what opens something.

/// What stands in place of a secret.
const HIDDEN: &str = "…";

/// This program's command line: keys, values of headers and passwords in URLs are left out.
#[must_use]
pub fn command() -> String {
    hide(std::env::args())
}

fn hide(words: impl Iterator<Item = String>) -> String {
    let (mut out, mut before) = (Vec::new(), String::new());
    for word in words {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), value),
            _ => (before, word.as_str()),
        };
        let shown = match flag.as_str() {
            "--publish-key" => HIDDEN.to_owned(),
            "--header" => {
                let name = value.split(':').next().unwrap_or_default();
                format!("{name}: {HIDDEN}")
            }
            "--url" => {
                let urls: Vec<_> = value.split(',').map(without_password).collect();
                urls.join(",")
            }
            _ => without_password(value),
        };
        let given = word.len() - value.len();
        out.push(format!("{}{shown}", &word[..given]));
        before = word;
    }
    out.join(" ")
}

/// URLs without their user and password.
#[must_use]
pub fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{HIDDEN}{}", &rest[at..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out() {
        let shown = |words: &[&str]| hide(words.iter().map(|word| (*word).to_owned()));
        let words = [
            "sse-loadtest",
            "run",
            "--url",
            "http://a:1/x",
            "--publish-key",
            "k1",
        ];
        assert_eq!(
            shown(&words),
            "sse-loadtest run --url http://a:1/x --publish-key …"
        );
        assert_eq!(
            shown(&["--publish-key=k1", "-c", "10"]),
            "--publish-key=… -c 10"
        );
        assert_eq!(shown(&["--header", "A: b", "-q"]), "--header A: … -q");
        assert_eq!(shown(&["--header=A: b=c"]), "--header=A: …");
        assert_eq!(
            shown(&["--redis", "redis://u:p@h:1/0"]),
            "--redis redis://…@h:1/0"
        );
        let urls = ["--url", "http://u:p@a,http://u:p@b/x"];
        assert_eq!(shown(&urls), "--url http://…@a,http://…@b/x");
        assert_eq!(shown(&["--url", "http://h/a@b"]), "--url http://h/a@b");
    }
}

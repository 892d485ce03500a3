//! The demo page of development mode: a chat room in plain HTML. `demo/stream.js` is the part to
//! copy into other pages.

/// A file of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// For the `Content-Type` header.
    pub content_type: &'static str,
    /// The whole file.
    pub body: &'static str,
}

/// The `Content-Security-Policy` of every file: nothing inline, nothing from elsewhere.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The file at a path below the path prefix, without a slash at the beginning; the page itself is
/// `""`. The page's URLs are relative, so it must be served from a path that ends with a slash.
#[must_use]
pub fn asset(path: &str) -> Option<Asset> {
    const HTML: &str = "text/html; charset=utf-8";
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    const STYLE: &str = "text/css; charset=utf-8";
    const IMAGE: &str = "image/svg+xml";
    let (content_type, body) = match path {
        "" => (HTML, include_str!("demo/index.html")),
        "demo/app.js" => (SCRIPT, include_str!("demo/app.js")),
        "demo/stream.js" => (SCRIPT, include_str!("demo/stream.js")),
        "demo/publish.js" => (SCRIPT, include_str!("demo/publish.js")),
        "demo/tabs.js" => (SCRIPT, include_str!("demo/tabs.js")),
        "demo/view.js" => (SCRIPT, include_str!("demo/view.js")),
        "demo/style.css" => (STYLE, include_str!("demo/style.css")),
        "demo/icon.svg" => (IMAGE, include_str!("demo/icon.svg")),
        _ => return None,
    };
    Some(Asset { content_type, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPTS: [&str; 5] = [
        "demo/app.js",
        "demo/stream.js",
        "demo/publish.js",
        "demo/tabs.js",
        "demo/view.js",
    ];

    fn body(path: &str) -> &'static str {
        asset(path).unwrap().body
    }

    /// The values of an attribute, or what stands between `mark` and the next quote.
    fn quoted<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
        let after = text.split(mark).skip(1);
        after.map(|rest| rest.split('"').next().unwrap()).collect()
    }

    #[test]
    fn every_url_of_the_page_is_relative_and_served() {
        let page = body("");
        for path in quoted(page, "src=\"")
            .into_iter()
            .chain(quoted(page, "href=\""))
        {
            assert!(path.starts_with('#') || asset(path).is_some(), "{path}");
        }
        for script in SCRIPTS {
            for path in quoted(body(script), "from \"./") {
                assert!(asset(&format!("demo/{path}")).is_some(), "{path}");
            }
        }
        assert_eq!(asset("demo/"), None);
        assert_eq!(asset("demo/../index.html"), None);
    }

    #[test]
    fn nothing_is_inline_and_nothing_becomes_html() {
        let page = body("");
        assert!(!page.contains("<style") && !page.contains("style=\""));
        let handler = |word: &str| word.starts_with("on") && word.contains('=');
        assert!(!page.split_whitespace().any(handler));
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script type=\"module\" src=").count()
        );
        for script in SCRIPTS {
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!body(script).contains(sink), "{script}: {sink}");
            }
        }
    }
}

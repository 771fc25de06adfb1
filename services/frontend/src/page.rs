//! The page and its files, which `page/build.sh` builds into `page/dist`.

use crate::config::GraphqlUrl;
use std::hash::{DefaultHasher, Hasher};

/// The paths of the page. Its script shows the view of the path.
pub const PATHS: [&str; 4] = ["/", "/bank-employee", "/client", "/background"];

const INDEX: &str = include_str!("../page/dist/index.html");

/// Name in the index, content type, content compressed by gzip.
const FILES: [(&str, &str, &[u8]); 3] = [
    ("app.css", "text/css; charset=utf-8", include_bytes!("../page/dist/app.css.gz")),
    ("app.js", "text/javascript; charset=utf-8", include_bytes!("../page/dist/app.js.gz")),
    ("icon.svg", "image/svg+xml", include_bytes!("../page/dist/icon.svg.gz")),
];

/// A file of the page. A change of its content changes its path.
#[derive(Debug)]
pub struct Asset {
    /// Contains a hash of the content, as in `/assets/app-0123456789abcdef.js`.
    pub path: String,
    pub content_type: &'static str,
    /// Compressed.
    pub gzip: &'static [u8],
    pub etag: String,
}

/// The HTML page, the same for all paths.
#[derive(Debug)]
pub struct Index {
    pub html: String,
    pub etag: String,
}

/// The index, with the paths of its files and `graphql_url` inserted, and the files.
pub fn render(graphql_url: &GraphqlUrl) -> (Index, Vec<Asset>) {
    let mut html = INDEX.replace("{GRAPHQL_URL}", &graphql_url.text);
    let assets = FILES.map(|(name, content_type, gzip)| {
        let hash = hash(gzip);
        let (stem, extension) = name.split_once('.').expect("all names in FILES contain a dot");
        let path = format!("/assets/{stem}-{hash}.{extension}");
        html = html.replace(&format!("/{name}\""), &format!("{path}\""));
        Asset { path, content_type, gzip, etag: format!("\"{hash}\"") }
    });
    let etag = format!("\"{}\"", hash(html.as_bytes()));
    (Index { html, etag }, assets.into())
}

/// A hash of the content. It is the same in all processes of one build.
fn hash(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Host;

    fn rendered(url: &str) -> (Index, Vec<Asset>) {
        render(&GraphqlUrl { text: url.to_owned(), host: Host::SameOrigin })
    }

    #[test]
    fn index_refers_to_each_file_once() {
        let (index, assets) = rendered("/graphql");
        for asset in &assets {
            assert_eq!(index.html.matches(&asset.path).count(), 1, "{}", index.html);
        }
        assert_eq!(index.html.matches("/assets/").count(), assets.len());
        assert!(!index.html.contains('{'), "a placeholder is left: {}", index.html);
        let mut paths: Vec<_> = assets.iter().map(|asset| &asset.path[..]).collect();
        paths.dedup();
        assert_eq!(paths.len(), FILES.len());
    }

    #[test]
    fn index_depends_on_the_endpoint() {
        let (one, other) = (rendered("/graphql").0, rendered(":8888/graphql").0);
        assert!(other.html.contains("content=\":8888/graphql\""));
        assert_ne!(one.etag, other.etag);
    }

    #[test]
    fn files_of_the_page_are_small() {
        let len = |wanted: &str| {
            let found = FILES.iter().find(|(name, ..)| *name == wanted);
            found.map_or(0, |(.., gzip)| gzip.len())
        };
        assert!((1..60_000).contains(&len("app.js")), "{} bytes of script", len("app.js"));
        let all: usize = FILES.iter().map(|(.., gzip)| gzip.len()).sum();
        assert!(all + INDEX.len() < 100_000, "{all} bytes");
    }

    #[test]
    fn index_complies_with_its_policy() {
        for forbidden in
            ["<style", " style=", "<script>", " onload=", " onclick=", "http:", "https:"]
        {
            assert!(!INDEX.contains(forbidden), "{forbidden}");
        }
    }
}

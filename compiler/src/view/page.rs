//! Pictures as one page that can be looked at closely.
//!
//! Owns how the page is put together: its frame, its style, its scripts and the picture as JSON, in one file that needs no
//! network. Must not know how the scripts draw: they stand beside this file, in `page/`.

use serde::Serialize;

use super::compare::Comparison;
use super::draw::SIGNATURE;
use super::picture::Picture;

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");

/// Plain scripts that share one scope, in the order in which they need each other.
const SCRIPTS: [&str; 15] = [
    include_str!("page/dom.js"),
    include_str!("page/format.js"),
    include_str!("page/model.js"),
    include_str!("page/layout.js"),
    include_str!("page/scene.js"),
    include_str!("page/glyph.js"),
    include_str!("page/draw.js"),
    include_str!("page/graph.js"),
    include_str!("page/inspector.js"),
    include_str!("page/search.js"),
    include_str!("page/memory.js"),
    include_str!("page/costs.js"),
    include_str!("page/linears.js"),
    include_str!("page/compare.js"),
    include_str!("page/main.js"),
];

/// The page of a picture.
pub fn page(picture: &Picture) -> String {
    assembled(picture)
}

/// The page of two pictures side by side.
pub fn comparison_page(comparison: &Comparison) -> String {
    assembled(comparison)
}

fn assembled(data: &impl Serialize) -> String {
    let json = serde_json::to_string(data).expect("a picture has a JSON form");
    // No text in the data can end the element that it stands in.
    let json = json.replace('<', "\\u003c");
    let script = SCRIPTS.join("\n");
    let mut page = String::with_capacity(HTML.len() + json.len() + script.len());
    let mut rest = HTML;
    // From mark to mark, so that what is put in is not searched for marks.
    for (mark, content) in [("/*style*/", STYLE), ("/*script*/", &script), ("/*picture*/", &json)] {
        let (before, after) = rest.split_once(mark).expect("the frame has every mark");
        page.push_str(before);
        page.push_str(content);
        rest = after;
    }
    page.push_str(rest);
    // Where it is looked for before a file is replaced.
    let doctype = page.find('>').map_or(0, |end| end + 1);
    page.insert_str(doctype, &format!("\n{SIGNATURE}"));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Markup in a path or a label is data: it ends no element.
    #[test]
    fn data_stays_data() {
        let page = assembled(&"</script><script>alert(1)</script><!-- /*script*/");
        let data = page.split_once("id=\"picture\">").expect("the data has a place").1;
        let data = data.split_once("</script>").expect("the element ends").0;
        let read: String = serde_json::from_str(data).expect("the data is JSON");
        assert_eq!(read, "</script><script>alert(1)</script><!-- /*script*/");
        assert!(page.starts_with(&format!("<!doctype html>\n{SIGNATURE}")));
    }
}

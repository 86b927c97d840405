//! The guide: one page per task.
//!
//! The pages are Markdown files in `src/guide`, so they read the same on a code host and here.

/// Includes a page as the documentation of a module. The references replace those at the end of the
/// page, which name files.
macro_rules! pages {
    ($($name:ident: $file:literal,)*) => {$(
        #[doc = "[limits]: crate::guide::limits"]
        #[doc = "[results]: crate::guide::results"]
        #[doc = "[format]: crate::dataset::format"]
        #[doc = ""]
        #[doc = include_str!($file)]
        pub mod $name {}
    )*};
}

pages! {
    install: "install.md",
    pipelines: "pipelines.md",
    querying: "querying.md",
    act: "act.md",
    gymnasium: "gymnasium.md",
    fleet: "fleet.md",
    object_stores: "object_stores.md",
    formats: "formats.md",
    export: "export.md",
    design: "design.md",
    results: "results.md",
    lerobot: "lerobot.md",
    webdataset: "webdataset.md",
    pytorch: "pytorch.md",
    limits: "limits.md",
}

//! Output formats, limits and readers that stop early.

use super::*;

#[test]
fn every_format_writes_the_same_rows() {
    let (_folder, store) = workspace();
    let sql = "SELECT frame_index, latent_action, latent_code, true_action FROM labels LIMIT 2";
    check(
        &store,
        sql,
        Format::Table,
        "frame_index  latent_action        latent_code  true_action\n\
         \x20         1  [0.5, -1, 0, +1]     [1, 2]                 4\n\
         \x20         2  [0.1, 0.2, 0.3, +1]  [3, 4]                 -\n",
    );
    check(
        &store,
        sql,
        Format::Csv,
        "frame_index,latent_action,latent_code,true_action\n\
         1,\"[0.5,-1.0,0.0,1e-7]\",\"[1,2]\",4\n\
         2,\"[0.1,0.2,0.3,0.4]\",\"[3,4]\",\n",
    );
    check(
        &store,
        sql,
        Format::Json,
        "[{\"frame_index\":1,\"latent_action\":[0.5,-1.0,0.0,1e-7],\"latent_code\":[1,2],\
         \"true_action\":4},{\"frame_index\":2,\"latent_action\":[0.1,0.2,0.3,0.4],\
         \"latent_code\":[3,4],\"true_action\":null}]\n",
    );
    let sql =
        "SELECT video, frame_index > 1 AS later, frame_index / 0.0 AS endless FROM labels LIMIT 1";
    check(
        &store,
        sql,
        Format::Json,
        "[{\"video\":\"maze/a.mp4\",\"later\":false,\"endless\":null}]\n",
    );
    check(&store, "SELECT video FROM labels WHERE frame_index > 9", Format::Json, "[]\n");
    let mut parquet = Vec::new();
    write(&query(&store, "SELECT * FROM labels").unwrap(), Format::Parquet, &mut parquet).unwrap();
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
    check(
        &store,
        "SELECT * FROM dynamics",
        Format::Json,
        "[{\"step\":1,\"loss\":0.5},{\"step\":2,\"loss\":null}]\n",
    );
}

#[test]
fn rows_beyond_a_limit_are_counted() {
    let (_folder, store) = workspace();
    for format in [Format::Table, Format::Csv, Format::Json, Format::JsonLines, Format::Parquet] {
        let written = |limit: Option<u64>, sql: &str| {
            let mut out = Vec::new();
            let left_out = answer(&store, sql, &Versions::default())
                .unwrap()
                .write(format, limit, &mut out)
                .unwrap();
            (left_out, out)
        };
        let all = "SELECT frame_index FROM frames ORDER BY frame_index";
        assert_eq!(written(Some(4), all).0, 6);
        assert_eq!(written(Some(10), all).0, 0);
        let whole = written(None, all);
        assert_eq!(whole, (0, written(Some(99), all).1));
        let mut collected = Vec::new();
        write(&query(&store, all).unwrap(), format, &mut collected).unwrap();
        assert_eq!(whole.1.len(), collected.len(), "streamed or collected, {format:?}");
        let four = "SELECT frame_index FROM frames ORDER BY frame_index LIMIT 4";
        assert_eq!(written(Some(4), all).1.len(), written(None, four).1.len());
        assert!(
            format == Format::JsonLines || !written(Some(0), all).1.is_empty(),
            "{format:?} has a header, or an end"
        );
    }
}

#[test]
fn json_lines_are_one_object_each() {
    let (_folder, store) = workspace();
    let mut out = Vec::new();
    let rows = answer(
        &store,
        "SELECT frame_index, latent_code, true_action FROM labels",
        &Versions::default(),
    )
    .unwrap();
    rows.write(Format::JsonLines, Some(2), &mut out).unwrap();
    let expected = "{\"frame_index\":1,\"latent_code\":[1,2],\"true_action\":4}\n\
                    {\"frame_index\":2,\"latent_code\":[3,4],\"true_action\":null}\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_closed_output_ends_the_query() {
    struct ClosesAfter(usize);
    impl std::io::Write for ClosesAfter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (_folder, store) = workspace();
    for format in [Format::Table, Format::Csv, Format::Json, Format::JsonLines, Format::Parquet] {
        // The output closes before the header, in it, and after it.
        for bytes in [0, 20, 100] {
            let answer = answer(
                &store,
                "SELECT f.*, l.motion FROM frames f CROSS JOIN labels l",
                &Versions::default(),
            );
            let error = answer
                .and_then(|answer| answer.write(format, None, &mut ClosesAfter(bytes)))
                .unwrap_err();
            let Error::Write(cause) = &error else { panic!("{format:?}: {error}") };
            assert_eq!(cause.kind(), std::io::ErrorKind::BrokenPipe, "{format:?}: {error}");
        }
    }
}

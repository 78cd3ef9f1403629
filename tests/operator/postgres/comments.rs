//! Comments, which `\d+` shows.

use catbird_testkit::cluster::database;

/// Tables and views of the schema without a comment, and columns of tables without one. Partitions have the comments of their table.
const UNCOMMENTED: &str = "
    select c.relname || coalesce('.' || a.attname, '') as name
      from pg_class c
      cross join lateral (select 0 as attnum, null::name as attname
                          union all
                          select attnum, attname from pg_attribute
                           where attrelid = c.oid and attnum > 0 and not attisdropped and c.relkind in ('r', 'p')) a
     where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
       and coalesce(case when a.attnum = 0 then obj_description(c.oid, 'pg_class') else col_description(c.oid, a.attnum) end, '') = ''
     order by 1";

#[tokio::test]
async fn every_table_view_and_column_has_a_comment() {
    let database = database().await;
    let rows = database.connect().await.query(UNCOMMENTED, &[]).await.unwrap();
    let names: Vec<String> = rows.iter().map(|row| row.get("name")).collect();
    assert!(names.is_empty(), "without a comment (comment on … is …, in the migration that adds it): {names:#?}");
}

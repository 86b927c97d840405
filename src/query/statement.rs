//! Parses SQL statements, and finds their tables. Start at [`Statement::parse`].
//!
//! Workspaces are never changed by SQL. A statement is an error here if it would change something,
//! or read files outside the workspace.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, Ident, ObjectName, ObjectNamePart, Query, Select, SetExpr, ShowStatementFilterPosition,
    ShowStatementOptions, Statement as Ast, TableAlias, TableFactor, VisitMut, VisitorMut,
};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::{Parser, ParserOptions};

use super::{Error, Result};

/// A supported statement.
#[derive(Debug)]
pub(super) enum Statement {
    /// `SELECT` or `WITH`: rows.
    Rows(Box<Query>),
    /// `SHOW TABLES`.
    Tables,
    /// `DESCRIBE table` or `SHOW COLUMNS FROM table`.
    Columns(TableName),
}

/// A table name in a query: `labels`, or `labels@3` for version 3.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// The table's name.
    pub name: String,
    /// The version after the `@`, if any.
    pub version: Option<u64>,
}

impl TableName {
    /// Splits `labels@3` into a name and a version.
    fn parse(text: &str) -> Self {
        let version =
            text.rsplit_once('@').and_then(|(name, version)| Some((name, version.parse().ok()?)));
        match version {
            Some((name, version)) => Self { name: name.to_owned(), version: Some(version) },
            None => Self { name: text.to_owned(), version: None },
        }
    }

    /// Parses a name of one part. A name such as `schema.table` cannot exist here and is kept as it
    /// is.
    fn of(name: &ObjectName) -> Self {
        match &name.0[..] {
            [ObjectNamePart::Identifier(ident)] => Self::parse(&ident.value),
            _ => Self { name: name.to_string(), version: None },
        }
    }
}

/// Returns the tables of a query, in the order of their first use. Names defined by the query
/// itself, as in `WITH`, are not included.
///
/// # Errors
/// Fails if the text is not SQL, or if the statement is not supported.
pub fn table_names(sql: &str) -> Result<Vec<TableName>> {
    let mut all: Vec<TableName> = Vec::new();
    match Statement::parse(sql)? {
        Statement::Tables => {}
        Statement::Columns(table) => all.push(table),
        Statement::Rows(mut query) => rename_tables(&mut query, |table| {
            if !all.contains(table) {
                all.push(table.clone());
            }
            Ok(table.name.clone())
        })?,
    }
    Ok(all)
}

impl Statement {
    /// Parses one statement, and returns an error if it is not supported.
    pub fn parse(sql: &str) -> Result<Self> {
        let options = ParserOptions { trailing_commas: true, ..ParserOptions::default() };
        let syntax =
            |cause: sqlparser::parser::ParserError| Error::Syntax { cause: cause.to_string() };
        let parser =
            Parser::new(&GenericDialect).with_options(options).try_with_sql(sql).map_err(syntax)?;
        let mut statements = { parser }.parse_statements().map_err(syntax)?;
        match (statements.pop(), statements.len()) {
            (None, _) => Err(refused("an empty query", "a statement")),
            // `SELECT 1; DROP TABLE x` must not run its first half.
            (Some(_), 1..) => Err(refused("several statements at once", "one statement")),
            (Some(one), 0) => Self::of(one),
        }
    }

    /// Converts a parsed statement.
    fn of(statement: Ast) -> Result<Self> {
        match statement {
            Ast::Query(query) => Ok(Self::Rows(query)),
            Ast::ShowTables { .. } => Ok(Self::Tables),
            Ast::ExplainTable { describe_alias, table_name, hive_format: None, .. }
                if describe_alias.to_string() != "EXPLAIN" =>
            {
                Ok(Self::Columns(TableName::of(&table_name)))
            }
            Ast::ShowColumns { extended: false, full: false, show_options } => {
                match table_shown(&show_options) {
                    Some(name) => Ok(Self::Columns(TableName::of(name))),
                    None => Err(refused(
                        "`SHOW COLUMNS` without a table, or with a filter",
                        "`SHOW COLUMNS FROM table`",
                    )),
                }
            }
            other => {
                let text = other.to_string();
                // The first word is enough to recognise the statement.
                let word = text.split_whitespace().next().unwrap_or_default().to_uppercase();
                Err(refused(
                    &format!("`{word}`"),
                    "a statement that only reads, because datasets are read-only",
                ))
            }
        }
    }
}

/// Returns the table of `SHOW COLUMNS`, or `None` if there is a filter or no table.
fn table_shown(options: &ShowStatementOptions) -> Option<&ObjectName> {
    let filtered = options.filter_position.as_ref().is_some_and(|position| {
        matches!(
            position,
            ShowStatementFilterPosition::Infix(_) | ShowStatementFilterPosition::Suffix(_)
        )
    });
    if filtered
        || options.starts_with.is_some()
        || options.limit.is_some()
        || options.limit_from.is_some()
    {
        return None;
    }
    options.show_in.as_ref()?.parent_name.as_ref()
}

/// Creates the error of an unsupported statement.
fn refused(seen: &str, expected: &str) -> Error {
    Error::Refused { seen: seen.to_owned(), expected: expected.to_owned() }
}

/// Returns the table and the result's name if the query is `SELECT count(*) FROM table`, with
/// nothing but aliases. Its rows can be counted without reading them.
pub(super) fn counted_table(query: &Query) -> Option<(TableName, String)> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let ([item], [from]) = (&select.projection[..], &select.from[..]) else { return None };
    // Any other clause would appear in the text of the query.
    if query.to_string() != format!("SELECT {item} FROM {from}") || !from.joins.is_empty() {
        return None;
    }
    let TableFactor::Table { name, alias, args: None, .. } = &from.relation else { return None };
    // Table hints and samples would appear in the text, too.
    let plain = match alias {
        None => name.to_string(),
        Some(alias) if alias.columns.is_empty() => format!("{name} {alias}"),
        Some(_) => return None,
    };
    let (call, column) = match item {
        sqlparser::ast::SelectItem::UnnamedExpr(call) => (call, call.to_string()),
        sqlparser::ast::SelectItem::ExprWithAlias { expr, alias } => (expr, alias.value.clone()),
        _ => return None,
    };
    let is_count = call.to_string().eq_ignore_ascii_case("count(*)");
    (is_count && plain == from.relation.to_string()).then(|| (TableName::of(name), column))
}

/// Replaces every table name of a query by the result of `resolve`. The original names stay valid
/// as aliases.
///
/// # Errors
/// Fails if `resolve` fails, or if the query would read files or change something.
pub(super) fn rename_tables(
    query: &mut Query,
    resolve: impl FnMut(&TableName) -> Result<String>,
) -> Result<()> {
    let mut renamer = TableRenamer { scopes: Vec::new(), resolve };
    match VisitMut::visit(query, &mut renamer) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

/// Walks through a query and tracks the names defined by `WITH`.
struct TableRenamer<F> {
    scopes: Vec<Scope>,
    resolve: F,
}

/// The names defined by one `WITH`. A definition sees only the ones before it.
struct Scope {
    names: Vec<String>,
    /// Number of names defined so far.
    visible: usize,
}

/// The control flow of the visitors here: an error ends the visit.
type Flow = ControlFlow<Box<Error>>;

impl<F: FnMut(&TableName) -> Result<String>> TableRenamer<F> {
    /// Returns the spelling of a name in the innermost `WITH` with this name.
    fn defined(&self, name: &str) -> Option<&String> {
        let visible = |scope: &'_ Scope| {
            scope.names[..scope.visible]
                .iter()
                .rev()
                .find(|one| same_ignoring_case(one, name))
                .cloned()
        };
        let scope = self.scopes.iter().rev().find(|scope| visible(scope).is_some())?;
        scope.names[..scope.visible].iter().rev().find(|one| same_ignoring_case(one, name))
    }

    /// Replaces a table name, and keeps the original as an alias.
    fn rename(&mut self, name: &mut ObjectName, alias: &mut Option<TableAlias>) -> Result<()> {
        let table = TableName::of(name);
        let spelled = match &name.0[..] {
            [ObjectNamePart::Identifier(ident)] => ident.value.clone(),
            _ => table.name.clone(),
        };
        let meant = match self.defined(&spelled) {
            Some(defined) => defined.clone(),
            None => (self.resolve)(&table)?,
        };
        // `labels.motion` must still work after `labels` is renamed.
        if alias.is_none() && meant != spelled {
            *alias = Some(TableAlias {
                explicit: true,
                name: Ident::with_quote('"', spelled),
                columns: vec![],
                at: None,
            });
        }
        *name = ObjectName::from(vec![Ident::with_quote('"', meant)]);
        Ok(())
    }
}

impl<F: FnMut(&TableName) -> Result<String>> VisitorMut for TableRenamer<F> {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &mut Query) -> Flow {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.scopes.push(Scope {
            names: tables.map(|table| table.alias.name.value.clone()).collect(),
            visible: 0,
        });
        flow(check_body(&mut query.body))
    }

    fn post_visit_query(&mut self, _: &mut Query) -> Flow {
        self.scopes.pop();
        // The first queries directly inside a query are the definitions of its `WITH`, in order.
        if let Some(around) = self.scopes.last_mut() {
            around.visible = (around.visible + 1).min(around.names.len());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> Flow {
        flow(if select.into.is_some() {
            Err(refused("`SELECT INTO`", "datasets to be read-only"))
        } else {
            Ok(())
        })
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> Flow {
        flow(match factor {
            TableFactor::Table { args: None, name, alias, .. } => self.rename(name, alias),
            TableFactor::Derived { .. }
            | TableFactor::NestedJoin { .. }
            | TableFactor::UNNEST { .. } => Ok(()),
            other => {
                let text = other.to_string();
                // Table functions of the engine can read any file, such as
                // `read_csv('/etc/passwd')`.
                let name = text.split('(').next().unwrap_or_default().trim().to_owned();
                Err(refused(&format!("the table function `{name}`"), "a table of the workspace"))
            }
        })
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> Flow {
        // The SQL printer does not escape quotes, so double them here.
        if let Expr::Value(value) = expr
            && let sqlparser::ast::Value::SingleQuotedString(text) = &mut value.value
        {
            *text = text.replace('\'', "''");
        }
        ControlFlow::Continue(())
    }
}

/// Rewrites `TABLE labels` as `SELECT * FROM labels`, and returns an error for writing statements.
fn check_body(body: &mut SetExpr) -> Result<()> {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            check_body(left).and_then(|()| check_body(right))
        }
        SetExpr::Table(table) => {
            let name = Ident::with_quote('"', table.table_name.clone().unwrap_or_default());
            if let Statement::Rows(query) = Statement::parse(&format!("SELECT * FROM {name}"))? {
                *body = *query.body;
            }
            Ok(())
        }
        SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => Ok(()),
        other => {
            let text = other.to_string();
            Err(refused(
                &format!("`{}` within a query", text.split(' ').next().unwrap_or_default()),
                "datasets to be read-only",
            ))
        }
    }
}

/// Converts a result into the control flow of a visitor.
fn flow(result: Result<()>) -> Flow {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(Box::new(error)),
    }
}

/// Returns whether two names are equal up to case.
pub(super) fn same_ignoring_case(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

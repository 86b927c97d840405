//! What an SQL statement asks, before the engine sees it.
//!
//! In: SQL text. Out: [`Statement`], which only reads, and the tables it names. Start at [`Statement::parse`]. Workspaces are never
//! changed by SQL, so every statement that would change something, or read files outside of the workspace, is an error here.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, Ident, ObjectName, ObjectNamePart, Query, Select, SetExpr, ShowStatementFilterPosition,
    ShowStatementOptions, Statement as Ast, TableAlias, TableFactor, VisitMut, VisitorMut,
};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::{Parser, ParserOptions};

use super::{Error, Result};

/// A statement that can be answered.
#[derive(Debug)]
pub(super) enum Statement {
    /// `SELECT` or `WITH`: rows.
    Rows(Box<Query>),
    /// `SHOW TABLES`.
    Tables,
    /// `DESCRIBE table` or `SHOW COLUMNS FROM table`.
    Columns(Asked),
}

/// A table as a query names it: `labels`, or `labels@3` for version 3.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asked {
    /// The table's name.
    pub name: String,
    /// The version after the `@`; `None` without one.
    pub version: Option<u64>,
}

impl Asked {
    /// Splits `labels@3` into a name and a version.
    fn parse(text: &str) -> Self {
        let version =
            text.rsplit_once('@').and_then(|(name, version)| Some((name, version.parse().ok()?)));
        match version {
            Some((name, version)) => Self { name: name.to_owned(), version: Some(version) },
            None => Self { name: text.to_owned(), version: None },
        }
    }

    /// Reads a name of one part; `schema.table` is no table of ours, and stays as it was written.
    fn of(name: &ObjectName) -> Self {
        match &name.0[..] {
            [ObjectNamePart::Identifier(ident)] => Self::parse(&ident.value),
            _ => Self { name: name.to_string(), version: None },
        }
    }
}

/// Returns the tables that a query asks for, in the order of their first use. Names that the query itself defines, such as those of
/// `WITH`, are not among them.
///
/// # Errors
/// Fails on what is no SQL, and on statements that are not answered.
pub fn tables_asked(sql: &str) -> Result<Vec<Asked>> {
    let mut all: Vec<Asked> = Vec::new();
    match Statement::parse(sql)? {
        Statement::Tables => {}
        Statement::Columns(asked) => all.push(asked),
        Statement::Rows(mut query) => rename_tables(&mut query, |asked| {
            if !all.contains(asked) {
                all.push(asked.clone());
            }
            Ok(asked.name.clone())
        })?,
    }
    Ok(all)
}

impl Statement {
    /// Parses one statement, and refuses those that are not answered.
    pub fn parse(sql: &str) -> Result<Self> {
        let options = ParserOptions { trailing_commas: true, ..ParserOptions::default() };
        let wrong =
            |cause: sqlparser::parser::ParserError| Error::Syntax { cause: cause.to_string() };
        let parser =
            Parser::new(&GenericDialect).with_options(options).try_with_sql(sql).map_err(wrong)?;
        let mut statements = { parser }.parse_statements().map_err(wrong)?;
        match (statements.pop(), statements.len()) {
            (None, _) => Err(refused("an empty query", "a statement")),
            (Some(_), 1..) => Err(refused("several statements at once", "one statement")),
            (Some(one), 0) => Self::of(one),
        }
    }

    fn of(statement: Ast) -> Result<Self> {
        match statement {
            Ast::Query(query) => Ok(Self::Rows(query)),
            Ast::ShowTables { .. } => Ok(Self::Tables),
            Ast::ExplainTable { describe_alias, table_name, hive_format: None, .. }
                if describe_alias.to_string() != "EXPLAIN" =>
            {
                Ok(Self::Columns(Asked::of(&table_name)))
            }
            Ast::ShowColumns { extended: false, full: false, show_options } => {
                match table_shown(&show_options) {
                    Some(name) => Ok(Self::Columns(Asked::of(name))),
                    None => Err(refused(
                        "`SHOW COLUMNS` without a table, or with a filter",
                        "`SHOW COLUMNS FROM table`",
                    )),
                }
            }
            other => {
                let text = other.to_string();
                let word = text.split_whitespace().next().unwrap_or_default().to_uppercase();
                Err(refused(
                    &format!("`{word}`"),
                    "a statement that only reads, because datasets are read-only",
                ))
            }
        }
    }
}

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

fn refused(seen: &str, expected: &str) -> Error {
    Error::Refused { seen: seen.to_owned(), expected: expected.to_owned() }
}

/// Returns the table of `SELECT count(*) FROM table`, with nothing else but aliases; its rows need not be read to be counted.
pub(super) fn counted(query: &Query) -> Option<(Asked, String)> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let ([item], [from]) = (&select.projection[..], &select.from[..]) else { return None };
    // Whatever else a query has would be in its text.
    if query.to_string() != format!("SELECT {item} FROM {from}") || !from.joins.is_empty() {
        return None;
    }
    let TableFactor::Table { name, alias, args: None, .. } = &from.relation else { return None };
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
    (is_count && plain == from.relation.to_string()).then(|| (Asked::of(name), column))
}

/// Replaces the name of every table of a query by what `resolve` returns for it. What a query calls its tables stays valid, as aliases.
///
/// # Errors
/// Fails where `resolve` does, and on whatever in a query would read files or change something.
pub(super) fn rename_tables(
    query: &mut Query,
    resolve: impl FnMut(&Asked) -> Result<String>,
) -> Result<()> {
    let mut names = Names { scopes: Vec::new(), resolve };
    match VisitMut::visit(query, &mut names) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

/// Walks through a query, and knows which names are those of its `WITH`.
struct Names<F> {
    scopes: Vec<Scope>,
    resolve: F,
}

/// The names that one `WITH` defines. A definition sees only those before it.
struct Scope {
    names: Vec<String>,
    visible: usize,
}

type Flow = ControlFlow<Box<Error>>;

impl<F: FnMut(&Asked) -> Result<String>> Names<F> {
    /// Returns how the innermost `WITH` that defines this name spells it.
    fn defined(&self, name: &str) -> Option<&String> {
        let visible = |scope: &'_ Scope| {
            scope.names[..scope.visible].iter().rev().find(|one| same(one, name)).cloned()
        };
        let scope = self.scopes.iter().rev().find(|scope| visible(scope).is_some())?;
        scope.names[..scope.visible].iter().rev().find(|one| same(one, name))
    }

    fn rename(&mut self, name: &mut ObjectName, alias: &mut Option<TableAlias>) -> Result<()> {
        let asked = Asked::of(name);
        let spelled = match &name.0[..] {
            [ObjectNamePart::Identifier(ident)] => ident.value.clone(),
            _ => asked.name.clone(),
        };
        let meant = match self.defined(&spelled) {
            Some(defined) => defined.clone(),
            None => (self.resolve)(&asked)?,
        };
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

impl<F: FnMut(&Asked) -> Result<String>> VisitorMut for Names<F> {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &mut Query) -> Flow {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.scopes.push(Scope {
            names: tables.map(|table| table.alias.name.value.clone()).collect(),
            visible: 0,
        });
        flow(plain(&mut query.body))
    }

    fn post_visit_query(&mut self, _: &mut Query) -> Flow {
        self.scopes.pop();
        // The first queries right within one are the definitions of its `WITH`, in order.
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
                let name = text.split('(').next().unwrap_or_default().trim().to_owned();
                Err(refused(&format!("the table function `{name}`"), "a table of the workspace"))
            }
        })
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> Flow {
        // Text is printed with its quotes as they are where they look doubled, so they are.
        if let Expr::Value(value) = expr
            && let sqlparser::ast::Value::SingleQuotedString(text) = &mut value.value
        {
            *text = text.replace('\'', "''");
        }
        ControlFlow::Continue(())
    }
}

/// Turns `TABLE labels` into `SELECT * FROM labels`, and refuses bodies that would change something.
fn plain(body: &mut SetExpr) -> Result<()> {
    match body {
        SetExpr::SetOperation { left, right, .. } => plain(left).and_then(|()| plain(right)),
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

fn flow(result: Result<()>) -> Flow {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(Box::new(error)),
    }
}

/// Whether two names differ in case alone.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

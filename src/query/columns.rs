//! Resolves the column names of a query, and names its unnamed results. Start at [`name_results`],
//! then [`fix_column_case`].

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{
    AccessExpr, Expr, GroupByExpr, Ident, OrderBy, OrderByKind, Query, Select, SelectItem, SetExpr,
    TableFactor, Visit, VisitMut, Visitor, VisitorMut,
};

use super::statement::same_ignoring_case;
use super::{Error, Result};

/// Names every unnamed expression after its own text, such as `median(motion)`, with a number if
/// the name is taken.
///
/// Polars names an expression after its first column, so two expressions over one column would be
/// an error.
///
/// # Errors
/// Fails if a grouped query is ordered by an aggregate outside its results: the engine would
/// compute it over the groups.
pub(super) fn name_results(query: &mut Query) -> Result<()> {
    match VisitMut::visit(query, &mut ResultNamer) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

/// Names unnamed results, and rewrites `ORDER BY` to use the names.
struct ResultNamer;

impl VisitorMut for ResultNamer {
    type Break = Box<Error>;

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Box<Error>> {
        let SetExpr::Select(select) = &*query.body else { return ControlFlow::Continue(()) };
        let Some(OrderBy { kind: OrderByKind::Expressions(keys), .. }) = &mut query.order_by else {
            return ControlFlow::Continue(());
        };
        let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
        for key in keys {
            let text = key.expr.to_string();
            let result = select.projection.iter().find_map(|item| match item {
                SelectItem::ExprWithAlias { expr, alias }
                    if is_same_text(&expr.to_string(), &text) =>
                {
                    Some(alias.clone())
                }
                _ => None,
            });
            match result {
                // Order by the result, which the engine has already computed.
                Some(name) => key.expr = Expr::Identifier(name),
                None if grouped && calls(&key.expr, AGGREGATES) => {
                    let expected = "one of the results: add it to SELECT".to_owned();
                    return ControlFlow::Break(Box::new(Error::Refused {
                        seen: format!("`ORDER BY {text}`"),
                        expected,
                    }));
                }
                None => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Box<Error>> {
        let mut taken: BTreeSet<String> = select.projection.iter().filter_map(alias_of).collect();
        for item in &mut select.projection {
            let SelectItem::UnnamedExpr(expr) = item else { continue };
            let (preferred, fallback) = match &*expr {
                Expr::Identifier(ident) => (ident.value.clone(), ident.value.clone()),
                // The engine names columns of joined tables in this way.
                Expr::CompoundIdentifier(parts) => match &parts[..] {
                    [.., table, column] => {
                        (column.value.clone(), format!("{}:{}", column.value, table.value))
                    }
                    _ => continue,
                },
                // One alias cannot name several columns.
                other if may_expand(other) => continue,
                other => (String::new(), other.to_string()),
            };
            // A plain column keeps its name unless it is taken.
            if !preferred.is_empty() && taken.insert(preferred) {
                continue;
            }
            let mut names =
                (0..).map(|n| if n == 0 { fallback.clone() } else { format!("{fallback}_{n}") });
            let free = names.find(|name| taken.insert(name.clone())).unwrap_or_default();
            // The SQL printer does not escape quotes, so double them here.
            let alias = Ident::with_quote('"', free.replace('"', "\"\""));
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        }
        ControlFlow::Continue(())
    }
}

/// Returns the alias of a result.
fn alias_of(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
        _ => None,
    }
}

/// Aggregate functions.
const AGGREGATES: &[&str] = &[
    "array_agg",
    "avg",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "first",
    "last",
    "max",
    "median",
    "min",
    "quantile_cont",
    "quantile_disc",
    "stddev",
    "string_agg",
    "sum",
    "variance",
];

/// Returns whether an expression may expand into several columns, such as `COLUMNS('latent.*')`.
fn may_expand(expr: &Expr) -> bool {
    calls(expr, &["columns"])
}

/// Returns whether an expression calls one of these functions.
fn calls(expr: &Expr, functions: &[&str]) -> bool {
    let mut found = false;
    let _ = sqlparser::ast::visit_expressions(expr, |one: &Expr| {
        if let Expr::Function(call) = one {
            found |= functions.contains(&call.name.to_string().to_lowercase().as_str());
        }
        ControlFlow::<()>::Continue(())
    });
    found
}

/// Returns whether two expressions have the same text. Case is ignored, except inside string
/// literals.
fn is_same_text(one: &str, other: &str) -> bool {
    one == other || (same_ignoring_case(one, other) && !one.contains('\''))
}

/// Corrects the case of column names to the spelling in their tables, and returns the undefined
/// names.
pub(super) fn fix_column_case(query: &mut Query, columns: &BTreeSet<String>) -> Vec<String> {
    let mut defined = DefinedNames::default();
    let _ = Visit::visit(query, &mut defined);
    // A query can use its own aliases like columns.
    let mut columns = columns.clone();
    columns.extend(defined.columns);
    let mut fixer = CaseFixer { columns, tables: defined.tables, unknown: Vec::new() };
    let _ = VisitMut::visit(query, &mut fixer);
    fixer.unknown
}

/// The column and table names defined by a query.
#[derive(Default)]
struct DefinedNames {
    columns: BTreeSet<String>,
    tables: BTreeSet<String>,
}

impl Visitor for DefinedNames {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for table in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.alias(&table.alias);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.columns.extend(select.projection.iter().filter_map(alias_of));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let alias = match factor {
            TableFactor::Table { alias, .. }
            | TableFactor::Derived { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::NestedJoin { alias, .. } => alias.as_ref(),
            _ => None,
        };
        if let Some(alias) = alias {
            self.alias(alias);
        }
        ControlFlow::Continue(())
    }
}

impl DefinedNames {
    /// Adds a table alias and its column aliases.
    fn alias(&mut self, alias: &sqlparser::ast::TableAlias) {
        self.tables.insert(alias.name.value.clone());
        self.columns.extend(alias.columns.iter().map(|column| column.name.value.clone()));
    }
}

/// Puts brackets around the column of `l.latent_code[1]`, as in `(l.latent_code)[1]`. Without them
/// the engine looks for a field of `l`.
fn add_brackets(expr: &mut Expr) {
    let Expr::CompoundFieldAccess { root, access_chain } = expr else { return };
    let mut parts = match &**root {
        Expr::Identifier(first) => vec![first.clone()],
        Expr::CompoundIdentifier(parts) => parts.clone(),
        _ => return,
    };
    let names = access_chain.iter().map_while(|access| match access {
        AccessExpr::Dot(Expr::Identifier(name)) => Some(name.clone()),
        _ => None,
    });
    parts.extend(names);
    if parts.len() > 1 {
        // The names moved into the brackets; indices such as `[1]` stay.
        access_chain.retain(|access| !matches!(access, AccessExpr::Dot(Expr::Identifier(_))));
        **root = Expr::Nested(Box::new(Expr::CompoundIdentifier(parts)));
    }
}

/// Corrects the case of names.
struct CaseFixer {
    columns: BTreeSet<String>,
    tables: BTreeSet<String>,
    unknown: Vec<String>,
}

impl CaseFixer {
    /// Corrects the case of a column, or records it as unknown.
    fn column(&mut self, ident: &mut Ident) {
        if !fix_case(ident, &self.columns)
            && !self.tables.contains(&ident.value)
            && !self.unknown.contains(&ident.value)
        {
            self.unknown.push(ident.value.clone());
        }
    }
}

/// Corrects the case of a name. Returns false if no name matches, or several do.
fn fix_case(ident: &mut Ident, names: &BTreeSet<String>) -> bool {
    if names.contains(&ident.value) {
        return true;
    }
    let mut near = names.iter().filter(|name| same_ignoring_case(name, &ident.value));
    // Two names that differ in case only are ambiguous.
    let (Some(name), None) = (near.next(), near.next()) else { return false };
    *ident = Ident::with_quote('"', name.clone());
    true
}

impl VisitorMut for CaseFixer {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        add_brackets(expr);
        match expr {
            Expr::Identifier(ident) => self.column(ident),
            Expr::CompoundIdentifier(parts) => {
                if let [table, column, ..] = &mut parts[..] {
                    fix_case(table, &self.tables);
                    self.column(column);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

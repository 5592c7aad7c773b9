//! Syntax that DataFusion's planner has no ear for, said in the way it knows.

use datafusion_sql::sqlparser::ast::{
    AccessExpr, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, Subscript, Value, ValueWithSpan, VisitMut, VisitorMut,
};
use std::ops::ControlFlow;

/// - `n.params['utm']` is an access to `n.params`.
/// - `items[1].name` is `items[1]['name']`.
/// - `SUBSTRING(text FROM 2 FOR 3)` is `substr(text, 2, 3)`.
pub(crate) fn rewrite(expr: &mut Expr) {
    struct Rewrite;
    impl VisitorMut for Rewrite {
        type Break = ();
        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            match expr {
                Expr::CompoundFieldAccess { root, access_chain } => {
                    let path = leading_names(root, access_chain);
                    if path.len() > 1 {
                        access_chain.drain(..path.len() - 1);
                        **root = Expr::CompoundIdentifier(path);
                    }
                    access_chain.iter_mut().for_each(subscript);
                }
                Expr::Substring { expr: text, substring_from, substring_for, .. } => {
                    let one = Expr::Value(ValueWithSpan {
                        value: Value::Number("1".to_owned(), false),
                        span: datafusion_sql::sqlparser::tokenizer::Span::empty(),
                    });
                    let from = substring_from.take().map_or(one, |from| *from);
                    let mut args = vec![(**text).clone(), from];
                    args.extend(substring_for.take().map(|len| *len));
                    *expr = call("substr", args);
                }
                _ => {}
            }
            ControlFlow::Continue(())
        }
    }
    let _ = expr.visit(&mut Rewrite);
}

/// The names that an access begins with: `n`, `params` of `n.params['utm']`. Empty where it begins
/// with something else.
pub(crate) fn leading_names(root: &Expr, access_chain: &[AccessExpr]) -> Vec<Ident> {
    let Expr::Identifier(first) = root else { return Vec::new() };
    let dots = access_chain.iter().map_while(|access| match access {
        AccessExpr::Dot(Expr::Identifier(ident)) => Some(ident.clone()),
        _ => None,
    });
    std::iter::once(first.clone()).chain(dots).collect()
}

fn subscript(access: &mut AccessExpr) {
    if let AccessExpr::Dot(Expr::Identifier(field)) = access {
        let value = Value::SingleQuotedString(field.value.clone());
        let index = Expr::Value(ValueWithSpan { value, span: field.span });
        *access = AccessExpr::Subscript(Subscript::Index { index });
    }
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args =
        args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

//! Tokens to a module: variables, functions, and their instructions with names not yet resolved.

use super::lex::{Token, tokens};
use super::types::Type;
use super::{Result, error};
use std::collections::HashMap;

/// A source position and the calls it was inlined through, innermost first; `None` for code without line information.
pub type Location = Option<u32>;

/// One `.loc`: file and line, then the (file, line) of each call site it was inlined at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    pub chain: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Generic,
    Global,
    Constant,
    Shared,
    Local,
    Param,
}

#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub align: u32,
    /// Bytes; 0 for `extern .shared x[]`, which begins where the static shared memory ends.
    pub size: u32,
    pub initial: Vec<u8>,
    /// Addresses of other variables that the initialiser holds: (offset, name).
    pub pointers: Vec<(u32, String)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    Name(String),
    Number(u64),
    /// A floating constant with its bits as f32 (`0f`) or f64 (`0d`).
    Float32(u32),
    Float64(u64),
    /// `[base + offset]`.
    Address(Box<Operand>, i64),
    /// `{a, b, ...}`.
    Vector(Vec<Operand>),
    /// `d|p` of shfl and setp.
    Pair(Box<Operand>, Box<Operand>),
    /// `!p`.
    Not(Box<Operand>),
    /// `(a, b)` of call.
    List(Vec<Operand>),
}

#[derive(Clone, Debug)]
pub struct Statement {
    pub line: u32,
    pub location: Location,
    /// Which brace the statement stands in: names are looked up from there outwards.
    pub scope: usize,
    pub guard: Option<(String, bool)>,
    pub opcode: String,
    pub operands: Vec<Operand>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Name {
    Register(Type, u32),
    Label(usize),
    /// Index into [`Function::variables`].
    Variable(usize),
}

#[derive(Clone, Debug, Default)]
pub struct Function {
    pub name: String,
    pub entry: bool,
    /// Returned parameters come first for a `.func`.
    pub parameters: Vec<Variable>,
    pub returns: usize,
    pub statements: Vec<Statement>,
    pub variables: Vec<Variable>,
    pub max_threads: u32,
    /// Names by (scope, name), and each scope's parent.
    pub names: HashMap<(usize, String), Name>,
    pub parents: Vec<usize>,
    pub registers: u32,
}

impl Function {
    pub fn resolve(&self, mut scope: usize, name: &str) -> Option<&Name> {
        loop {
            // The tuple key owns its string; names are short and this runs once at load.
            if let Some(found) = self.names.get(&(scope, name.to_owned())) {
                return Some(found);
            }
            if scope == 0 {
                return None;
            }
            scope = self.parents[scope];
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Module {
    pub target: String,
    pub files: HashMap<u32, String>,
    pub sources: Vec<Source>,
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
}

impl Module {
    pub fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser {
            tokens: tokens(text),
            at: 0,
            module: Self::default(),
            seen: HashMap::new(),
            latest: HashMap::new(),
            location: None,
        };
        parser.module()?;
        Ok(parser.module)
    }
}

pub(super) struct Parser {
    pub(super) tokens: Vec<Token>,
    pub(super) at: usize,
    module: Module,
    seen: HashMap<Source, u32>,
    /// The source last seen at a (file, line).
    latest: HashMap<(u32, u32), u32>,
    location: Location,
}

impl Parser {
    fn module(&mut self) -> Result<()> {
        while self.at < self.tokens.len() {
            let line = self.line();
            match self.next()?.as_str() {
                ".version" | ".address_size" => self.at += 1,
                ".target" => {
                    self.module.target = self.next()?;
                    while self.take(",") {
                        self.at += 1;
                    }
                }
                ".file" => self.file()?,
                ".section" => self.skip_braces()?,
                ".loc" => self.loc(line)?,
                ".visible" | ".weak" | ".extern" | ".common" => {}
                ".global" => self.variable(Space::Global).map(|v| self.module.variables.extend(v))?,
                ".const" => self.variable(Space::Constant).map(|v| self.module.variables.extend(v))?,
                ".shared" => self.variable(Space::Shared).map(|v| self.module.variables.extend(v))?,
                ".entry" => self.function(true)?,
                ".func" => self.function(false)?,
                ".pragma" | ".alias" => self.skip_to(";")?,
                other => return error(line, format!("unknown directive `{other}`")),
            }
        }
        Ok(())
    }

    fn file(&mut self) -> Result<()> {
        let line = self.line();
        let index = self.number()? as u32;
        let name = self.next()?;
        self.module.files.insert(index, name);
        // nvcc may add a time stamp and a size.
        while self.at < self.tokens.len() && self.line() == line {
            self.at += 1;
        }
        Ok(())
    }

    /// `.loc file line column[, function_name label[+n], inlined_at file line column]`: it ends with its line, not with `;`.
    fn loc(&mut self, line: u32) -> Result<()> {
        let start = self.at;
        while self.at < self.tokens.len() && self.line() == line {
            self.at += 1;
        }
        let words: Vec<&str> = self.tokens[start..self.at].iter().map(|token| token.text.as_str()).collect();
        let pair = |from: usize| Some((words.get(from)?.parse().ok()?, words.get(from + 1)?.parse().ok()?));
        let Some(own) = pair(0) else { return error(line, "malformed .loc") };
        let mut chain = vec![own];
        if let Some(at) = words.iter().position(|word| *word == "inlined_at") {
            let Some(call) = pair(at + 1) else { return error(line, "malformed inlined_at") };
            // inlined_at names one call site; that site's own chain is the one last seen there.
            match self.latest.get(&call).map(|&source| &self.module.sources[source as usize].chain) {
                Some(outer) if !outer.contains(&own) => chain.extend_from_slice(outer),
                _ => chain.push(call),
            }
        }
        let source = Source { chain };
        let next = self.module.sources.len() as u32;
        let index = *self.seen.entry(source.clone()).or_insert_with(|| {
            self.module.sources.push(source);
            next
        });
        self.latest.insert(own, index);
        self.location = Some(index);
        Ok(())
    }

    /// What follows a state space: `.align 4 .b8 name[8] = {...}, other;`. An array without a length has size 0.
    fn variable(&mut self, space: Space) -> Result<Vec<Variable>> {
        let mut variables = Vec::new();
        let (mut align, mut kind, mut lanes) = (0, Type::B8, 1);
        loop {
            let line = self.line();
            let word = self.next()?;
            match word.as_str() {
                ".align" => align = self.number()? as u32,
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                ".ptr" | ".global" | ".attribute" => {}
                _ if word.starts_with('.') => match Type::parse(&word[1..]) {
                    Some(found) => kind = found,
                    None => return error(line, format!("unknown type `{word}`")),
                },
                _ => {
                    let mut size = kind.bytes() * lanes;
                    while self.take("[") {
                        if self.take("]") {
                            size = 0;
                        } else {
                            size *= self.number()? as u32;
                            self.expect("]")?;
                        }
                    }
                    let mut variable = Variable {
                        name: word,
                        space,
                        align: align.max(kind.bytes()),
                        size,
                        initial: Vec::new(),
                        pointers: Vec::new(),
                    };
                    if self.take("=") {
                        self.initialiser(kind, &mut variable)?;
                    }
                    variables.push(variable);
                    if !self.take(",") {
                        self.take(";");
                        return Ok(variables);
                    }
                }
            }
        }
    }

    fn initialiser(&mut self, kind: Type, variable: &mut Variable) -> Result<()> {
        let mut depth = 0;
        loop {
            if self.take("{") {
                depth += 1;
            } else if self.take("}") {
                depth -= 1;
            } else if !self.take(",") {
                let line = self.line();
                let value = match self.operand()? {
                    Operand::Number(value) => value,
                    Operand::Float32(bits) => bits.into(),
                    Operand::Float64(bits) => bits,
                    Operand::Name(name) if kind.bytes() == 8 => {
                        let name = if name == "generic" {
                            self.expect("(")?;
                            let inner = self.next()?;
                            self.expect(")")?;
                            inner
                        } else {
                            name
                        };
                        variable.pointers.push((variable.initial.len() as u32, name));
                        0
                    }
                    other => return error(line, format!("unsupported initialiser {other:?}")),
                };
                variable.initial.extend_from_slice(&value.to_le_bytes()[..kind.bytes() as usize]);
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn parameters(&mut self) -> Result<Vec<Variable>> {
        let mut parameters = Vec::new();
        self.expect("(")?;
        while !self.take(")") {
            self.expect(".param")?;
            // `variable` also takes the comma and what follows it; a parameter list repeats `.param`.
            let (mut align, mut kind) = (0, Type::B8);
            loop {
                let line = self.line();
                let word = self.next()?;
                match word.as_str() {
                    ".align" => align = self.number()? as u32,
                    ".ptr" | ".global" | ".shared" | ".const" | ".local" => {}
                    _ if word.starts_with('.') => match Type::parse(&word[1..]) {
                        Some(found) => kind = found,
                        None => return error(line, format!("unknown parameter type `{word}`")),
                    },
                    _ => {
                        let mut size = kind.bytes();
                        if self.take("[") {
                            size *= self.number()? as u32;
                            self.expect("]")?;
                        }
                        let align = if size == kind.bytes() { kind.bytes() } else { align.max(kind.bytes()) };
                        parameters.push(Variable {
                            name: word,
                            space: Space::Param,
                            align,
                            size,
                            initial: Vec::new(),
                            pointers: Vec::new(),
                        });
                        break;
                    }
                }
            }
            self.take(",");
        }
        Ok(parameters)
    }

    fn function(&mut self, entry: bool) -> Result<()> {
        let mut function = Function { entry, parents: vec![0], ..Function::default() };
        if self.peek() == "(" {
            function.parameters = self.parameters()?;
            function.returns = function.parameters.len();
        }
        function.name = self.next()?;
        if self.peek() == "(" {
            let parameters = self.parameters()?;
            function.parameters.extend(parameters);
        }
        loop {
            let line = self.line();
            match self.next()?.as_str() {
                // A declaration: its definition follows, or the emulator provides it.
                ";" => return Ok(()),
                "{" => break,
                ".noreturn" => {}
                ".maxntid" | ".reqntid" => {
                    function.max_threads = self.number()? as u32;
                    while self.take(",") {
                        function.max_threads *= self.number()? as u32;
                    }
                }
                ".minnctapersm" | ".maxnreg" | ".maxnctapersm" => self.at += 1,
                other => return error(line, format!("unknown function directive `{other}`")),
            }
        }
        self.location = None;
        let mut scope = 0;
        loop {
            let line = self.line();
            let word = self.next()?;
            match word.as_str() {
                "{" => {
                    function.parents.push(scope);
                    scope = function.parents.len() - 1;
                }
                "}" if scope == 0 => break,
                "}" => scope = function.parents[scope],
                ".reg" => self.registers(&mut function, scope)?,
                ".shared" | ".local" | ".param" => {
                    let space = match word.as_str() {
                        ".shared" => Space::Shared,
                        ".local" => Space::Local,
                        _ => Space::Param,
                    };
                    for variable in self.variable(space)? {
                        function.names.insert((scope, variable.name.clone()), Name::Variable(function.variables.len()));
                        function.variables.push(variable);
                    }
                }
                ".loc" => self.loc(line)?,
                ".file" => self.file()?,
                ".pragma" => self.skip_to(";")?,
                ";" => {}
                _ if self.peek() == ":" => {
                    self.at += 1;
                    function.names.insert((scope, word), Name::Label(function.statements.len()));
                    // `label: .branchtargets a, b;` is the table of a brx.idx.
                    if self.take(".branchtargets") {
                        let operands = self.operands()?;
                        let opcode = ".branchtargets".to_owned();
                        function.statements.push(Statement {
                            line,
                            location: self.location,
                            scope,
                            guard: None,
                            opcode,
                            operands,
                        });
                    }
                }
                _ => {
                    self.at -= 1;
                    let statement = self.statement(scope)?;
                    function.statements.push(statement);
                }
            }
        }
        self.module.functions.push(function);
        Ok(())
    }

    /// `.b32 %r<6>;` declares %r0 to %r5; `.pred p, q;` declares two.
    fn registers(&mut self, function: &mut Function, scope: usize) -> Result<()> {
        let line = self.line();
        let word = self.next()?;
        let Some(kind) = Type::parse(word.trim_start_matches('.')) else {
            return error(line, format!("unknown register type `{word}`"));
        };
        loop {
            let name = self.next()?;
            let names = if self.take("<") {
                let count = self.number()?;
                self.expect(">")?;
                (0..count).map(|i| format!("{name}{i}")).collect()
            } else {
                vec![name]
            };
            for name in names {
                function.names.insert((scope, name), Name::Register(kind, function.registers));
                function.registers += 1;
            }
            if !self.take(",") {
                return self.expect(";");
            }
        }
    }

    fn statement(&mut self, scope: usize) -> Result<Statement> {
        let line = self.line();
        let mut guard = None;
        if self.take("@") {
            let negated = self.take("!");
            guard = Some((self.next()?, negated));
        }
        let opcode = self.next()?;
        let operands = self.operands()?;
        Ok(Statement { line, location: self.location, scope, guard, opcode, operands })
    }
}

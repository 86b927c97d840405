//! The macro behind the list of stages. It generates the enums that hold any stage and any task.

/// Generates [`StageSpec`](super::StageSpec), [`Task`](super::Task), [`KINDS`](super::KINDS) and
/// [`kind_of`](super::kind_of) from entries `Kind(module::Config)`.
///
/// The module's name is the kind's name in YAML; it has a `KIND`, and its config is a
/// [`Stage`](super::Stage).
macro_rules! stages {
    ($($(#[doc = $doc:literal])+ $Kind:ident($module:ident::$Config:ident),)+) => {
        /// One stage: its kind and settings.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum StageSpec {
            $($(#[doc = $doc])+ $Kind($module::$Config),)+
        }

        impl StageSpec {
            /// Reads the settings of a stage of this kind. Returns `None` if the kind does not
            /// exist or the settings cannot be read.
            pub fn read(kind: &str, reader: impl ReadSettings) -> Option<Self> {
                // A chain of `if`s, since the names are constants and not patterns.
                $(if kind == $module::KIND.name {
                    return reader.read().map(StageSpec::$Kind);
                })+
                None
            }
        }

        impl std::ops::Deref for StageSpec {
            type Target = dyn Stage;

            fn deref(&self) -> &Self::Target {
                match self {
                    $(StageSpec::$Kind(config) => config,)+
                }
            }
        }

        /// A unit of work as plain data. An executor may run it here or on another machine.
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Task {
            $(
                #[doc = concat!("A task of a `", stringify!($module), "` stage.")]
                $Kind(Box<<$module::$Config as Stage>::Task>),
            )+
        }

        impl Task {
            /// Returns the kind of the task's stage.
            pub fn kind(&self) -> &'static StageKind {
                match self {
                    $(Task::$Kind(_) => &$module::KIND,)+
                }
            }
        }

        impl std::ops::Deref for Task {
            type Target = dyn StageTask;

            fn deref(&self) -> &Self::Target {
                match self {
                    $(Task::$Kind(task) => task.as_ref(),)+
                }
            }
        }

        $(impl From<<$module::$Config as Stage>::Task> for Task {
            fn from(task: <$module::$Config as Stage>::Task) -> Self {
                Task::$Kind(Box::new(task))
            }
        })+

        /// The names of all kinds, in the order in which data passes through them.
        pub const KINDS: [&str; [$(stringify!($module)),+].len()] = [$($module::KIND.name),+];

        /// Returns the kind with this name.
        pub fn kind_of(name: &str) -> Option<&'static StageKind> {
            $(if name == $module::KIND.name {
                return Some(&$module::KIND);
            })+
            None
        }
    };
}

pub(super) use stages;

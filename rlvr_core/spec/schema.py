"""JSON Schema (draft 2020-12) of spec files, with the options of what is installed. Imports no torch.

Editors complete and check specs with it. Where a place can hold several components, ``name`` decides (if, then) which closed object it
must be, so a mistyped option is flagged where it stands.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import AliasChoices, BaseModel
from pydantic.json_schema import GenerateJsonSchema

from rlvr_core.plugins import Catalogue, Component
from rlvr_core.spec.model import DEFAULT_OBSERVERS, RolloutSection, Spec
from rlvr_core.spec.parts import LABELLED_SLOTS, SINGLE_SLOTS, Objective

Json = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(catalogue: Catalogue) -> Json:
    """The schema of a whole spec."""
    return _Schema(catalogue).whole()


def options_schema(options: type[BaseModel]) -> dict[str, Json]:
    """Option name -> its schema: type, bounds, default, description, and ``symbol`` where a paper has one."""
    schema = options.model_json_schema(schema_generator=_Untitled)
    definitions = schema.get("$defs", {})
    return {key: _inlined(value, definitions) for key, value in schema.get("properties", {}).items()}


class _Untitled(GenerateJsonSchema):
    """Without titles that only repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _inlined(schema: Any, definitions: Mapping[str, Json]) -> Any:
    """A schema with references to nested models replaced by what they refer to."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    target = schema.get("$ref")
    if target is None:
        return {key: _inlined(value, definitions) for key, value in schema.items()}
    beside = {key: value for key, value in schema.items() if key != "$ref"}
    return {**_inlined(definitions[target.rpartition("/")[2]], definitions), **beside}


class _Schema:
    """Builds the schema; every component is defined once, under ``$defs``."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.definitions: dict[str, Json] = {}

    def whole(self) -> Json:
        schema = _model(Spec)
        properties = schema["properties"]
        _refer(properties, "task", self.part("task"))
        _refer(properties, "objective", self.objectives())
        _refer(properties, "rewards", {"minProperties": 1, **self.labelled("reward")})
        _refer(properties, "observers", self.labelled("observer", DEFAULT_OBSERVERS))
        engine = RolloutSection().engine["name"]
        _refer(properties["rollout"]["properties"], "engine", self.part("rollout", unnamed=engine))
        return {"$schema": DIALECT, "title": "rlvr spec", **schema, "$defs": self.definitions}

    def part(
        self, kind: str, unnamed: str | None = None, preset: Mapping[str, Any] | None = None, *, removable: bool = False
    ) -> Json:
        """Any component of a kind. ``unnamed`` may leave its name out; ``preset``: options that it has already; null may remove it."""
        components = [self.catalogue.get(kind, name) for name in self.catalogue.names(kind)]
        choices = [
            (component, self.default(component, preset or {}) if component.name == unnamed else self.reference(component))
            for component in components
        ]
        return _by_name(choices, unnamed, removable)

    def default(self, component: Component, preset: Mapping[str, Any]) -> Json:
        """The component that stands at a place unless another is named."""
        return component_schema(component, preset, name_required=False)

    def reference(self, component: Component) -> Json:
        """A named component, defined on first use."""
        key = f"{component.kind}.{component.name}"
        if key not in self.definitions:
            self.definitions[key] = component_schema(component, {}, name_required=True)
        return {"$ref": f"#/$defs/{key}"}

    def labelled(self, kind: str, presets: Mapping[str, Mapping[str, Any]] | None = None) -> Json:
        """Parts by label. A label that is a component's name, or one of ``presets``, needs no name; null removes a preset."""
        properties = {label: self.part(kind, unnamed=label) for label in self.catalogue.names(kind)}
        for label, preset in (presets or {}).items():
            properties[label] = self.part(kind, preset.get("name", label), preset, removable=True)
        return {"type": "object", "properties": properties, "additionalProperties": self.part(kind)}

    def objectives(self) -> Json:
        """Any installed objective, with changes to its parts."""
        components = [self.catalogue.get("objective", name) for name in self.catalogue.names("objective")]
        return _by_name([(component, self.objective(component)) for component in components], None, False)

    def objective(self, component: Component) -> Json:
        """One objective: each slot's own default component may leave its name out."""
        defaults = component.objective
        assert defaults is not None  # registered objectives carry one
        fields = _model(Objective)["properties"]
        properties: dict[str, Json] = {"name": {"const": component.name, "description": component.summary}}
        for slot, kind in SINGLE_SLOTS.items():
            standing = getattr(defaults, slot) or {}
            part = self.part(kind, standing.get("name"), standing, removable=slot == "correction")
            properties[slot] = {"description": fields[slot]["description"], **part}
        for slot, kind in LABELLED_SLOTS.items():
            properties[slot] = {"description": fields[slot]["description"], **self.labelled(kind, getattr(defaults, slot))}
        properties["loss_agg_mode"] = {**fields["loss_agg_mode"], "default": defaults.loss_agg_mode}
        return {"description": component.summary, "properties": properties, "required": ["name"], "additionalProperties": False}


def _by_name(choices: Sequence[tuple[Component, Json]], unnamed: str | None, removable: bool) -> Json:
    """A closed object for each component; ``name`` decides which."""
    names = [component.name for component, _ in choices]
    summaries = "; ".join(f"{component.name}: {component.summary}" for component, _ in choices)
    name: Json = {"enum": names, "description": summaries}
    required: list[str] = ["name"]
    if unnamed in names:
        name, required = {**name, "default": unnamed}, []
    cases = [
        {
            "if": {"type": "object", "properties": {"name": {"const": n}}, "required": [] if n == unnamed else ["name"]},
            "then": schema,
        }
        for n, (_, schema) in zip(names, choices, strict=True)
    ]
    kind: str | list[str] = ["object", "null"] if removable else "object"
    return {"type": kind, "properties": {"name": name}, "required": required, "allOf": cases}


def component_schema(component: Component, preset: Mapping[str, Any], *, name_required: bool) -> Json:
    """One component's part of a spec. ``preset``: options that stand by default and so are not required."""
    properties: dict[str, Json] = {"name": {"const": component.name, "description": component.summary}}
    if component.kind == "reward":
        properties["weight"] = {"type": "number", "default": 1.0, "description": "what its value counts in the sum"}
    for key, schema in options_schema(component.options).items():
        described = _with_symbol(schema)
        properties[key] = {**described, "default": preset[key]} if key in preset else described
    required = [key for key, info in component.options.model_fields.items() if info.is_required() and key not in preset]
    extra = component.options.model_config.get("json_schema_extra")
    return {
        "description": component.summary,
        "properties": properties,
        "required": ["name", *required] if name_required else required,
        "additionalProperties": False,
        **(extra if isinstance(extra, dict) else {}),
    }


def _model(model: type[BaseModel]) -> Json:
    """One of core's own sections, nested ones written out, aliases beside the names they stand for."""
    schema = model.model_json_schema(schema_generator=_Untitled)
    definitions = schema.pop("$defs", {})
    schema = _inlined(schema, definitions)
    del schema["title"]
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = _model(annotation)
            schema["properties"][name] = {**section, "description": info.description}
        if isinstance(info.validation_alias, AliasChoices):
            _add_aliases(schema["properties"], name, info.validation_alias)
    schema["properties"] = {key: _with_symbol(value) for key, value in schema["properties"].items()}
    return dict(schema)


def _add_aliases(properties: dict[str, Json], name: str, aliases: AliasChoices) -> None:
    written = next(alias for alias in aliases.choices if alias in properties)
    for alias in aliases.choices:
        if isinstance(alias, str) and alias != name:
            properties[alias] = {**properties[str(written)], "description": f"the same as {name}"}


def _with_symbol(schema: Json) -> Json:
    """The paper's symbol, moved into the description: to an editor it is no keyword."""
    schema = copy.deepcopy(schema)
    symbol = schema.pop("symbol", None)
    if symbol:
        schema["description"] = f"{schema.get('description', '')} (in the paper: {symbol})"
    return schema


def _refer(properties: dict[str, Json], key: str, schema: Json) -> None:
    """Replace a place's schema, keep what is said about it."""
    kept = {name: value for name, value in properties[key].items() if name in ("description", "default")}
    properties[key] = {**kept, **schema}

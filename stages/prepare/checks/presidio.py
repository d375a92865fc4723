"""Finds personal data with Presidio (an optional dependency): people's names, and numbers in national formats.

Names need a spaCy model of the language, which is not published on PyPI; without one only Presidio's patterns are used.
Nothing is downloaded: by default Presidio would download a model, and its recognizers of addresses a list of domains.
"""

from functools import cached_property
from importlib.util import find_spec
from typing import Any

from tuneline.core.errors import BadRequest
from tuneline.stages.prepare.checks.language import detect_language
from tuneline.stages.prepare.checks.personal_data import (
    SensitiveMatch,
    find_sensitive,
    mask_sensitive,
    replace_with_kinds,
)

REGIONS = {"en": ("US", "GB", "AU"), "it": ("IT",), "id": ("ID",)}
"""Supported languages, each with the regions of its phone numbers. Any other text is taken for the first language."""
ENTITIES = {
    "PERSON": "a person's name",
    "PHONE_NUMBER": "a phone number",
    "IP_ADDRESS": "an IP address",
    "MAC_ADDRESS": "a MAC address",
    "CRYPTO": "a cryptocurrency address",
    "MEDICAL_LICENSE": "a medical licence",
    "US_SSN": "a US social security number",
    "US_ITIN": "a US taxpayer number",
    "US_PASSPORT": "a US passport",
    "UK_NHS": "a UK health service number",
    "IT_VAT_CODE": "an Italian VAT number",
    "IT_PASSPORT": "an Italian passport",
    "IT_IDENTITY_CARD": "an Italian identity card",
    "IT_DRIVER_LICENSE": "an Italian driving licence",
}
"""Presidio's entities that are looked for. Left out are dates, places and URLs, which are in every text, and what our
own patterns find."""
LOWEST_SCORE = 0.4
"""Presidio's score below which what looks like a passport is as likely any other number."""
MODEL_SIZES = ("lg", "md", "sm", "trf")
"""Sizes of spaCy's models, in order of preference."""


class Presidio:
    """Finds what the patterns of `personal_data` do not. The analyzer is loaded at the first text.

    Raises:
        BadRequest: Presidio is not installed.
    """

    def __init__(self) -> None:
        if find_spec("presidio_analyzer") is None:
            raise BadRequest(
                "data.personal: presidio: needs Presidio; `pip install 'tuneline[personal]'`, "
                "or `personal: regex`, which needs nothing"
            )
        self.without_names: set[str] = set()
        """Languages of texts in which names could not be looked for, because no model is installed."""

    def find(self, text: str) -> list[SensitiveMatch]:
        """Return the matches in the order of the text, without overlaps, and without those of `personal_data`."""
        language = detect_language(text) or "en"
        language = language if language in REGIONS else "en"
        if self._models[language] is None:
            self.without_names.add(language)
        taken, matches = bytearray(len(text)), []
        for match in find_sensitive(text):
            taken[match.start : match.end] = b"\x01" * (match.end - match.start)
        results = self._analyzer.analyze(text, language, entities=list(ENTITIES), score_threshold=LOWEST_SCORE)
        for result in sorted(results, key=lambda result: (-result.score, result.start)):
            if taken.find(1, result.start, result.end) < 0:
                taken[result.start : result.end] = b"\x01" * (result.end - result.start)
                kind, preview = ENTITIES[result.entity_type], f"{text[result.start : result.end][:4]}…"
                matches.append(SensitiveMatch("personal_data", kind, result.start, result.end, preview))
        return sorted(matches, key=lambda match: match.start)

    def first_of_each_kind(self, text: str) -> dict[str, SensitiveMatch]:
        """Return the first match of each kind, by kind."""
        return {match.kind: match for match in reversed(self.find(text))}

    def mask(self, text: str) -> str:
        """Return the text with each match, also those of `personal_data`, replaced by its kind in brackets."""
        if " " not in text:  # a role, a tool, a key: the model takes many single words for names
            return mask_sensitive(text)
        return mask_sensitive(replace_with_kinds(text, self.find(text)))

    @cached_property
    def _models(self) -> dict[str, str | None]:
        """For each language the spaCy model that is installed, or None."""
        import spacy.util

        installed = spacy.util.get_installed_models()
        return {language: _best_model(language, installed) for language in REGIONS}

    @cached_property
    def _analyzer(self) -> Any:
        import spacy
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import SpacyNlpEngine
        from presidio_analyzer.predefined_recognizers import PhoneRecognizer

        models = self._models
        engine = SpacyNlpEngine([{"lang_code": language, "model_name": models[language]} for language in REGIONS])
        engine.nlp = {
            language: spacy.load(model) if model else spacy.blank(language) for language, model in models.items()
        }
        registry = RecognizerRegistry(supported_languages=list(REGIONS))
        registry.load_predefined_recognizers(languages=list(REGIONS), nlp_engine=engine)
        for recognizer in ("EmailRecognizer", "UrlRecognizer", "PhoneRecognizer"):
            registry.remove_recognizer(recognizer)
        for language, regions in REGIONS.items():
            registry.add_recognizer(PhoneRecognizer(supported_language=language, supported_regions=regions))
        return AnalyzerEngine(registry, engine, supported_languages=list(REGIONS))


def _best_model(language: str, installed: list[str]) -> str | None:
    candidates = [f"{language}_core_{kind}_{size}" for size in MODEL_SIZES for kind in ("web", "news")]
    return next((name for name in [*candidates, "xx_ent_wiki_sm"] if name in installed), None)

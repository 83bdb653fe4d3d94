"""Answers as people and programs give them, checked before any of them is written."""

from __future__ import annotations

from collections.abc import Mapping

from psp_ray.core.answers import IGNORE, AnswerReader, UnknownLabel
from psp_ray.core.errors import OracleError
from psp_ray.core.names import Looked, Names
from psp_ray.labels.answer_book import Said
from psp_ray.run.session.given import answers_of, label_number
from psp_ray.run.state import PoolNames


class Answering:
    """Reads answers about the images of a pool."""

    def __init__(self, names: PoolNames) -> None:
        self._names, self._read = names, AnswerReader(names.classes)
        self._position = Looked(Names.of(names.sample_ids), range(len(names.sample_ids)))

    def said(
        self, answers: Mapping[str, str | int], predicted: Mapping[str, tuple[int, float]], way: str
    ) -> list[Said]:
        """{id: class name or index, skip or ignore} as the book has it; `predicted`: (class, probability) by id, as
        far as known.

        Raises OracleError for what is no answer, and for a name of no class or no image.
        """
        said = []
        for name, given in answers_of(answers).items():
            suggested, probability = predicted.get(name, (-1, 0.0))
            digest, label = self._hash(name), self._label(name, given)
            said.append(Said(digest, label, suggested=suggested, probability=probability, way=way))
        return said

    def _hash(self, name: str) -> str:
        if name not in self._position:
            raise OracleError(f"{name!r} is no image of the pool")
        return self._names.content_hashes[int(self._position[name])]

    def _label(self, name: str, given: str | int) -> int:
        if not isinstance(given, str):
            number = label_number(name, given)
            if not IGNORE <= number < len(self._names.classes):
                raise OracleError(f"{name!r}: {given} is no class; there are 0..{len(self._names.classes) - 1}")
            return number
        try:
            label = self._read(given)
        except UnknownLabel as error:
            raise OracleError(f"{name!r}: {error}") from None
        if label is None:
            raise OracleError(f"{name!r}: an empty answer; leave the image out to answer later")
        return label

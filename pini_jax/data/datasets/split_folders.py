"""Which folders are splits and which are classes, by their names and by what lies in them.

    CLASS/IMAGE.jpg                     classes
    train/CLASS/IMAGE.jpg, test/...     splits: the names in `SPLITS`, of several languages, also in seg_train
    data/CLASS/..., data/train/...      one folder around all is looked through
    train/train/CLASS/..., test/test/   so is one within each split, or one that repeats the split's name
    cat/1/..., dog/1/...                classes, with a note: they hold the same numbers

What may be either (north/cat/..., south/cat/...) is a problem, never a guess: a wrong one would train the training
images against the test's.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pini_jax.core.wording import listed
from pini_jax.data.datasets import splits
from pini_jax.data.datasets.findings import Problem
from pini_jax.data.datasets.tree import Tree

# "eval" stands for the test, or, where there is one besides, for validation.
SPLITS = {
    **splits.SPLITS,
    **dict.fromkeys(("trn", "trainset", "trainval", "trainingset"), "train"),
    **dict.fromkeys(("valset", "validset", "devset"), "val"),
    **dict.fromkeys(("testset", "holdout"), "test"),
    **dict.fromkeys(("eval", "evaluation", "evaluate", "evalset"), "eval"),
}
# In Spanish, Portuguese, French, Italian; German, Dutch, Polish, Turkish; Russian; Chinese, Japanese, Korean.
_ABROAD = {
    "train": "entrenamiento treino treinamento entraînement entrainement apprentissage addestramento"
    " trainingsdaten lerndaten trening eğitim egitim обучение обучающая тренировка тренировочная"
    " 训练 训练集 訓練 訓練集 訓練データ 学習 学習データ 学習用 훈련 학습",
    "val": "validación validacion validação validacao validazione"
    " validierung validierungsdaten validatie walidacja doğrulama dogrulama валидация валидационная"
    " 验证 验证集 驗證 驗證集 検証 検証データ 検証用 검증",
    "test": "prueba pruebas teste testes prova testdaten testowy testowe тест тестовая проверка"
    " 测试 测试集 測試 測試集 テスト テストデータ テスト用 테스트",
}
SPLITS |= {word: split for split, words in _ABROAD.items() for word in words.split()}
# Words that say neither split nor class.
_NEUTRAL = {
    *("data", "dataset", "datasets", "set", "sets", "split", "splits", "archive", "folder", "folders", "dir"),
    *("image", "images", "img", "imgs", "picture", "pictures", "pics", "photo", "photos", "jpg", "jpeg", "png"),
    *("classes", "v", "my"),
}
_PIECES = {"fold", "folds", "part", "parts", "subset", "batch", "chunk", "shard"}  # of a whole, whatever it is


class FolderLayout(NamedTuple):
    """How a folder is read.

    Attributes:
        places: {folder: split}; the classes are the folders within. "" is the folder itself.
        named: whether the places are splits by their names.
        problems: what may be read in two ways.
        notes: what is read in one of two ways.
    """

    places: Mapping[str, str]
    named: bool
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()


class _Folders(NamedTuple):
    """What lies where.

    Attributes:
        within: {folder: the names of the folders in it that hold pictures, at any depth}.
        flat: folders with pictures of their own.
        all: {folder: the names of all folders in it}.
    """

    within: Mapping[str, Sequence[str]]
    flat: set[str]
    all: Mapping[str, Sequence[str]]

    def sole(self, folder: str) -> str:
        """The one folder that holds all pictures of `folder`, in folders of its own; or nothing."""
        inner = [below(folder, name) for name in self.within[folder]]
        return inner[0] if len(inner) == 1 and not {folder, inner[0]} & self.flat else ""


def below(folder: str, name: str) -> str:
    """A path below the one that is looked at; "" is that one."""
    return f"{folder}/{name}" if folder else name


def find_splits(tree: Tree, name: str) -> FolderLayout:
    """The layout of a folder called `name`."""
    folders = _folders(tree)
    top = _unwrapped(folders, name)
    holding, roles = folders.within[top], _roles(folders.all[top], folders.within[top])
    called = {roles[name] for name in holding}
    if holding and (None not in called or _is_whole(called)):
        return FolderLayout(
            _inner(folders, {below(top, name): split for name, split in roles.items() if split}), True
        )
    problems = tuple(_doubts(folders, top, roles))
    notes = () if problems else tuple(_notes(folders, top, name))
    return FolderLayout({top: "train"}, False, problems, notes)


def _folders(tree: Tree) -> _Folders:
    within: dict[str, set[str]] = defaultdict(set)
    flat: set[str] = set()
    for folder in {id.rpartition("/")[0] for id in (*tree.images, *tree.left_out)}:
        flat.add(folder)
        while folder:
            above, _, name = folder.rpartition("/")
            within[above].add(name)
            folder = above
    every: dict[str, list[str]] = defaultdict(list)
    for folder in tree.folders:
        above, _, name = folder.rpartition("/")
        every[above].append(name)
    return _Folders(defaultdict(list, {k: sorted(names) for k, names in within.items()}), flat, every)


def _unwrapped(folders: _Folders, name: str) -> str:
    """The deepest folder that holds everything."""
    top, inner = "", folders.sole("")
    while inner:
        wrapper = inner.rpartition("/")[2]
        alone = len(folders.all[top]) == 1 or _holds_splits(folders.within[inner])
        if _is_split([wrapper]) or not (alone or _says_nothing(wrapper, name)):
            break
        top, name, inner = inner, wrapper, folders.sole(inner)
    return top if len(folders.within[top]) > 1 or _is_split(folders.within[top]) else ""


def _says_nothing(wrapper: str, name: str) -> bool:
    """images/, or the name of the folder that it lies in."""
    return _is_neutral(wrapper) or wrapper.lower() == name.lower()


def _is_split(names: Sequence[str]) -> bool:
    return any(_roles(names, names).values())


def _inner(folders: _Folders, places: Mapping[str, str]) -> dict[str, str]:
    """Where the classes of each split lie: in the split's folder, or in the one folder within it."""
    while True:
        soles = {place: folders.sole(place) for place in places}
        if not all(soles.values()):  # one folder may be a split's one class, but not if its name says nothing new
            soles = {place: inner if inner and _repeats(inner) else "" for place, inner in soles.items()}
        if not any(soles.values()):
            return dict(places)
        places = {soles[place] or place: split for place, split in places.items()}


def _repeats(folder: str) -> bool:
    above, name = folder.split("/")[-2:]
    return name == above or _is_neutral(name) or _splits_of(name) == _splits_of(above) != set()


# ------------------------------------------------------------------------------------------------ names


def _all_words(name: str) -> set[str]:
    """TrainImages2017, train_images -> {train, images}."""
    composed = unicodedata.normalize("NFC", name)  # a Mac's names have accents that are characters of their own
    return set(re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", composed).lower()))


def _words(name: str) -> set[str]:
    """Those that say something."""
    return _all_words(name) - _NEUTRAL


def _is_neutral(name: str) -> bool:
    return bool(_all_words(name)) and not _words(name)


def _splits_of(name: str) -> set[str]:
    return {SPLITS[word] for word in _words(name) & SPLITS.keys()}


def _is_piece(name: str) -> bool:
    """set_1, fold2: a part of something, and no word for what."""
    return bool(_all_words(name)) and _words(name) <= _PIECES


def _roles(names: Iterable[str], holding: Sequence[str]) -> dict[str, str | None]:
    """The split that each name stands for, or None."""
    shared = set.intersection(*map(_words, holding)) if len(holding) > 1 else set()
    roles = _without(names, shared - SPLITS.keys())  # `seg` of seg_train and seg_test says nothing,
    return roles if _is_whole(roles.values()) else _without(names, set())  # `station` beside a bus_station does


def _without(names: Iterable[str], words: set[str]) -> dict[str, str | None]:
    called = {name: {SPLITS.get(word) for word in _words(name) - words} for name in names}
    meanings = {name: splits.pop() if len(splits) == 1 else None for name, splits in called.items()}
    instead = "val" if "test" in meanings.values() else "test"
    return {name: instead if split == "eval" else split for name, split in meanings.items()}


def _is_whole(splits: Collection[str | None]) -> bool:
    """Whether there is something to train on and something to test on."""
    return "train" in splits and not {"val", "test"}.isdisjoint(splits)


# ------------------------------------------------------------------------------------------------ doubts


def _doubts(folders: _Folders, top: str, roles: Mapping[str, str | None]) -> Iterator[Problem]:
    """What speaks for splits where the names do not settle it."""
    names = folders.within[top]
    same = _same_folders(folders, top)
    trains = [name for name in names if roles[name] == "train" and len(folders.within[below(top, name)]) > 1]
    telling = [name for name in names if roles[name] or _is_piece(name)]
    vague = [name for name in names if _splits_of(name)]
    advice = "name the splits train/, val/ and test/, or, if these are classes,"
    if same and (telling or len(vague) > 1 or _are_named(same)):
        mend = f"{advice} move their images out of the folders within"
        yield Problem(f"folders that may be splits, as all hold {listed(same)}: {mend}", tuple(names))
    elif trains and not any(below(top, name) in folders.flat for name in trains):
        mend = f"{advice} call them by other names"
        yield Problem(f"folders that may be splits, as one is called {trains[0]}: {mend}", tuple(names))
    if pairs := _pairs(vague):
        yield Problem("names that differ in a split only (sort the images into train/CLASS and test/CLASS)", pairs)
    if turned := tuple(name for name in names if _holds_splits(folders.within[below(top, name)])):
        yield Problem("classes that hold splits (turn them round, to train/CLASS and test/CLASS)", turned)


def _same_folders(folders: _Folders, top: str) -> list[str]:
    """Folders that lie in all of several: at least half of what the smallest of these holds."""
    inner = [set(folders.within[below(top, name)]) for name in folders.within[top]]
    if len(inner) < 2:
        return []
    common = set.intersection(*inner)
    return sorted(common) if 2 * len(common) >= min(map(len, inner)) else []


def _are_named(same: Sequence[str]) -> bool:
    """Whether they could be classes: two or more, and called by words."""
    return len(list(filter(_words, same))) > 1


def _pairs(names: Iterable[str]) -> tuple[str, ...]:
    """cat_train and cat_test: names that are the same but for words of different splits."""
    groups: dict[frozenset[str], list[str]] = defaultdict(list)
    for name in names:
        groups[frozenset(_words(name) - SPLITS.keys())].append(name)
    several = [group for group in groups.values() if len(set.union(*map(_splits_of, group))) > 1]
    return tuple(itertools.chain(*several))


def _holds_splits(names: Sequence[str]) -> bool:
    return _is_whole(_roles(names, names).values())


def _notes(folders: _Folders, top: str, name: str) -> Iterator[Problem]:
    names = tuple(folders.within[top])
    if not all(_says_nothing(part, name) for part in top.split("/") if part):
        yield Problem(f"all images lie in {top}/, so that its folders are the classes", names)
    same = _same_folders(folders, top)
    if len(same) > 1:
        splits = "if they are splits, name them train/, val/ and test/"
        yield Problem(f"classes that all hold {listed(same)} ({splits})", names)

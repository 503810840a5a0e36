"""Labels, speakers and splits from names, folders and tables; and the first lines of a fit that say so."""

import numpy as np
import pytest
import soundfile

from spectrovae import cli
from spectrovae.data import Recordings, scan
from spectrovae.data.labels import named
from spectrovae.data.manifest import Manifest, Record
from spectrovae.errors import InputError


def records_of(*paths):
    return [Record(path, 1, True, sha256=f"{number:064x}") for number, path in enumerate(paths)]


def labels_of(paths, **options):
    return [record.label for record in named(records_of(*paths), **options)[0]]


def write(folder, names, rate=8000, samples=400):
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.random.default_rng(seed).uniform(-0.3, 0.3, samples), rate)
    return folder


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["dog/1.wav", "cat/2.wav"], ["dog", "cat"]),
        (["audio/dog/1.wav", "audio/cat/2.wav"], ["dog", "cat"]),  # the first level that differs
        (["dog/site1/2024-05-01/1.wav", "cat/site0/2024-05-02/2.wav"], ["dog", "cat"]),
        (["2024-05-01/dog/1.wav", "2024-05-02/cat/2.wav"], ["dog", "cat"]),  # a date is no label
        (["20240501/dog/1.wav", "20240502/cat/2.wav"], ["dog", "cat"]),
        (["2023/05/dog/a.wav", "2024/05/cat/a.wav"], ["dog", "cat"]),
        (["train/dog/1.wav", "test/cat/2.wav"], ["dog", "cat"]),  # a split is no label
        (["x/train/dog/1.wav", "x/val/cat/2.wav"], ["dog", "cat"]),
        (["dog/train/1.wav", "cat/test/1.wav"], ["dog", "cat"]),
        (["birds/wren/a.wav", "birds/b.wav", "c.wav"], ["wren", "birds", None]),
        (["a.wav", "b.wav"], [None, None]),
        (["train/a.wav", "test/b.wav"], [None, None]),
        (["train/audio/a.wav", "test/audio/b.wav"], [None, None]),
        (["2024-05-01/a.wav", "2024-05-02/b.wav"], [None, None]),
        (["dogs/a.wav", "dogs/b.wav"], ["dogs", "dogs"]),
        (["3_theo_7.wav", "dog/4_ann_1.wav"], ["3", "4"]),  # the name before the folder
    ],
)
def test_the_folder_that_tells_recordings_apart_is_the_label(paths, labels):
    assert labels_of(paths) == labels


def test_a_choice_of_level_is_said():
    _, notes = named(records_of("dog/site1/a.wav", "cat/site0/b.wav"))
    assert len(notes) == 1
    assert "level 1, as 'dog' of 'dog/site1'; --label-from" in notes[0]
    assert not named(records_of("dog/a.wav", "cat/b.wav"))[1]


@pytest.mark.parametrize(("level", "labels"), [(1, ["dog", "cat"]), (2, ["s1", "s0"]), (-1, ["s1", "s0"])])
def test_a_folder_level(level, labels):
    assert labels_of(["dog/s1/3_theo_7.wav", "cat/s0/b.wav"], label_from=level) == labels


@pytest.mark.parametrize("level", [0, 3, -3, 99])
def test_a_level_that_is_not_there(level):
    with pytest.raises(InputError, match=rf"from 1 \(top\) to 2, or -1 for the deepest, received {level}"):
        labels_of(["dog/s1/a.wav", "cat/s0/b.wav"], label_from=level)


def test_letters_are_one_label_however_they_are_composed():
    assert labels_of(["é/1.wav", "e\u0301/2.wav"]) == ["é", "é"]
    pattern = r"(?P<speaker>[^/]+)_\d"
    assert [r.speaker for r in named(records_of("o\u0308_1.wav", "ö_2.wav"), pattern)[0]] == ["ö", "ö"]


TABLES = {
    "comma": "filename,label\na.wav,dog\nb.wav,cat\n",
    "tab": "filename\tlabel\na.wav\tdog\nb.wav\tcat\n",
    "semicolon": "Datei;Klasse\na.wav;dog\nb.wav;cat\n",
    "no suffix": "id,label\na,dog\nb,cat\n",
    "other folders": "path,label\n/home/ann/data/x/a.wav,dog\n./x/b.wav,cat\n",
    "backslashes": "path,label\nx\\a.wav,dog\nx\\b.wav,cat\n",
    "no heading": "a.wav,dog\nb.wav,cat\n",
    "label first": "class,file\ndog,a.wav\ncat,b.wav\n",
    "quotes": 'filename,label\n"a.wav","dog"\n"b.wav",cat\n',
    "mark": "\ufefffilename,label\r\na.wav,dog\r\n\r\nb.wav,cat\r\n",
    "others": "fname,fold,target,category\na.wav,1,0,dog\nb.wav,2,5,cat\n",
    "spaces": "File Name , Class Name\na.wav , dog\nb.wav, cat \n",
    "twice": "filename,label\na.wav,dog\na.wav,dog\nb.wav,cat\n",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_tables_of_labels(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    assert labels_of(["x/a.wav", "x/b.wav"], labels=tmp_path / "t.csv") == ["dog", "cat"]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (",filename,label\n0,1.wav,dog\n1,0.wav,cat\n", ["cat", "dog"]),
        (",id,word\n0,1,dog\n1,0,cat\n", ["cat", "dog"]),
        ("name,id,file\n1,0,0.wav\n", "name the column of labels 'label'"),
        ("kind,file\n1,0.wav\n0,1.wav\n", ["1", "0"]),
        ("label,file\n1,0\n0,1\n", ["1", "0"]),
        ("0.wav,voice\n1.wav,dog\n", ["voice", "dog"]),
        ("one,two\n1,0\n0,1\n", "'one' and 'two' name different recordings; name the column of files 'file'"),
        ("1,0\n0,1\n", "'column 1' and 'column 2' name different recordings"),
    ],
)
def test_numbers_and_words_are_not_taken_for_files_or_headings(tmp_path, text, labels):
    (tmp_path / "t.csv").write_text(text)
    if isinstance(labels, list):
        assert labels_of(["0.wav", "1.wav"], labels=tmp_path / "t.csv") == labels
    else:
        with pytest.raises(InputError, match=labels):
            labels_of(["0.wav", "1.wav"], labels=tmp_path / "t.csv")


def test_a_table_in_utf_16_with_umlauts(tmp_path):
    (tmp_path / "t.csv").write_text("filename,label\nu\u0308.wav,Gr\u00fcn\nb.wav,e\u0301\n", encoding="utf-16")
    assert labels_of(["\u00fc.wav", "b.wav"], labels=tmp_path / "t.csv") == ["Gr\u00fcn", "\u00e9"]


WRONG = {
    "filename,label\na.wav,dog\na.wav,cat\n": r"names x/a.wav twice with different values \(lines 2 and 3\)",
    "filename,label\nc.wav,dog\n": "no name in .* is that of a recording: it has 'c.wav', and there is 'x/a.wav'",
    "filename,label\n": "a heading and no lines",
    "": "no table of labels",
    "a.wav\nb.wav\n": "no table of labels",
    "filename,colour,size\na.wav,red,1\n": "has 'filename', 'colour', 'size': name the column of labels 'label'",
    "filename,label\na.wav,dog,brown\n": "line 2: 3 cells, where the first line has 2",
    "filename,label,split\na.wav,dog,fold1\n": "line 2: a split is train, validation or test, received 'fold1'",
    "filename,label\nsame.wav,dog\n": (
        "line 2: 'same.wav' may be x/same.wav, y/same.wav; write all of its path, as in 'x/same.wav'"
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG.items(), ids=[repr(text)[:30] for text in WRONG])
def test_wrong_tables_are_one_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        labels_of(["x/a.wav", "x/b.wav", "x/same.wav", "y/same.wav"], labels=tmp_path / "t.csv")
    assert "\n" not in str(error.value)


def test_tables_that_cannot_be_read(tmp_path):
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04\xff\xfe\x80")
    with pytest.raises(InputError, match="no text in UTF-8"):
        labels_of(["a.wav"], labels=tmp_path / "t.xlsx")
    for absent in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(InputError, match="cannot read the labels"):
            labels_of(["a.wav"], labels=absent)


def test_names_of_other_folders_are_not_taken_for_these(tmp_path):
    (tmp_path / "t.csv").write_text("filename,label\ncat/0.wav,cat\ndog/0.wav,dog\nbird/0.wav,bird\n")
    records, notes = named(records_of("dog/0.wav", "fish/0.wav"), labels=tmp_path / "t.csv")
    assert [record.label for record in records] == ["dog", None]
    assert "1 recordings have no line in t.csv and no label: fish/0.wav" in notes[1]
    assert "2 lines of t.csv name no recording here: cat/0.wav, bird/0.wav" in notes[2]


def test_a_full_path_stands_above_its_end(tmp_path):
    (tmp_path / "t.csv").write_text("filename,label\n0.wav,top\nx/0.wav,below\n")
    assert labels_of(["0.wav", "x/0.wav"], labels=tmp_path / "t.csv") == ["top", "below"]


def test_speakers_and_splits_of_a_table(tmp_path):
    names = [f"{number}.wav" for number in range(6)]
    rows = [f"{name},{'ab'[n % 2]},{split},s{n}\n" for n, (name, split) in
            enumerate(zip(names, ("train", "train", "dev", "test", "TRAIN", "Validation")))]  # fmt: skip
    (tmp_path / "t.tsv").write_text("path,label,set,client_id\n".replace(",", "\t") + "".join(rows).replace(",", "\t"))
    recordings = Recordings.open(write(tmp_path / "x", names), samples=400, labels=tmp_path / "t.tsv")
    assert recordings.rule == "table"
    found = {
        split: {e.path: e.speaker for e in recordings.examples(split)} for split in ("train", "validation", "test")
    }
    assert found == {"train": {"0.wav": "s0", "1.wav": "s1", "4.wav": "s4"},
                     "validation": {"2.wav": "s2", "5.wav": "s5"}, "test": {"3.wav": "s3"}}  # fmt: skip
    opened = Recordings.open(**recordings.get_config())
    assert opened.provenance() == recordings.provenance()
    assert opened.examples("train") == recordings.examples("train")


def test_a_manifest_keeps_what_it_was_labelled_with_and_takes_other_labels(tmp_path):
    write(tmp_path / "x", ["dog/s1/1.wav", "cat/s0/2.wav"])
    (tmp_path / "t.csv").write_text("file,label,split\n1,wolf,train\n2,lion,test\n")
    scan(tmp_path / "x", labels=tmp_path / "t.csv").write(tmp_path / "x" / "m.jsonl")
    read = Manifest.read(tmp_path / "x" / "m.jsonl")
    assert [(record.label, record.split) for record in read.records] == [("lion", "test"), ("wolf", "train")]
    for source in (tmp_path / "x" / "m.jsonl", read):
        opened = Recordings.open(source, samples=400, label_from=2, split="hash")
        assert {e.label for split in ("train", "validation") for e in opened.examples(split)} == {"s0", "s1"}


def test_what_is_trained_on_is_said(tmp_path):
    write(tmp_path, [f"{label}/{n}.wav" for label in ("dog", "cat") for n in range(6)])
    write(tmp_path / "dog", ["slow.wav"], rate=4000, samples=800)
    soundfile.write(tmp_path / "cat" / "stereo.wav", np.random.default_rng(9).uniform(-0.3, 0.3, (900, 2)), 8000)
    for number in range(7):
        (tmp_path / "cat" / f"bad{number}.wav").write_bytes(b"no audio")
    for name in ("a.m4a", "b.m4a", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    text = Recordings.open(tmp_path, samples=400).describe()
    lines = text.splitlines()
    assert lines[0] == f"{tmp_path}: 14 recordings, 0.9 s"  # 12 * 0.05 + 0.2 + 0.1125
    assert lines[1].startswith("rejected 7: cat/bad0.wav: ")
    assert lines[1].endswith("; and 2 more")
    assert "ignored 3 other files: 2 .m4a, 1 .txt" in lines
    assert "examples of 0.05 s (400 samples at 8000 Hz); recordings: 1 resampled from 4000 Hz, " in text
    assert "1 mixed down to one channel, 2 cut into overlapping pieces" in text
    assert "split by hash: train " in text
    assert "2 labels: " in text


def test_odd_names_do_not_break_lines(tmp_path, capsys):
    write(tmp_path, [f"{number}.wav" for number in range(4)] + ["a\nb/c.wav"])
    (tmp_path / "bad\n\x1b[2J\udce9.wav").write_bytes(b"no audio")
    says = r"bad\n\x1b[2J\udce9.wav: is not readable audio"
    lines = Recordings.open(tmp_path, samples=400).describe().splitlines()
    assert lines[1].startswith(f"rejected 1: {says}")
    assert r"1 label: a\nb 1; none: 4" in lines[4]
    assert cli.main(["data", "scan", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"rejected  {says}")


def test_toy_sets_are_described():
    text = Recordings.open("toy:harmonic?size=40", samples=400).describe()
    assert text.splitlines()[0] == "toy:harmonic?size=40: sounds made by formula"
    assert "split by hash: train " in text

"""Write every dataset of the paper as a few clips, in the official file formats, with media."""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "media"))

from synthetic import make_clip

CLASSES = ("ApplyEyeMakeup", "YoYo")
# Three that are in the list for retrieval, and one that is not.
AUDIOSET_EVAL = ("--4gqARaEJE", "-0nqfRcnAYE", "-1OlgJWehn8", "-1OlgJWehn9")


def youtube(number, kind="y"):
    return f"{kind}-_{number:08d}"


def msrvtt(folder, tested=2):
    """12 videos: 7 train, 2 validate, 3 test officially; the last two are the 1k-A test set.

    tested: how many these are, if not two.
    """
    splits = ["train"] * 7 + ["validate"] * 2 + ["test"] * (1 + tested)
    videos = [
        {
            "category": 9, "id": n, "split": split, "video_id": f"video{n}",
            "url": f"https://www.youtube.com/watch?v={youtube(n, 'm')}",
            "start time": 137.72 + n, "end time": 149.44 + n,
        }
        for n, split in enumerate(splits)
    ]  # fmt: skip
    sentences = [
        {"caption": f"a person does thing {n} in way {k}", "video_id": f"video{n}", "sen_id": n}
        for n in range(len(splits))
        for k in range(2)
    ]
    info = {"year": "2016", "version": "1.0"}
    data = {"info": info, "videos": videos, "sentences": sentences}
    (folder / "MSRVTT_data.json").write_text(json.dumps(data))
    train = "".join(f"video{n}\n" for n in range(10))
    (folder / "MSRVTT_train.9k.csv").write_text(f"video_id\n{train}")
    texts = ('"a person, asleep"', "a dog runs", "a car", "a boat")
    rows = [f"ret{n},msr{10 + n},video{10 + n},{texts[n]}\n" for n in range(tested)]
    header = "key,vid_key,video_id,sentence\n"
    (folder / "MSRVTT_JSFUSION_test.csv").write_text(header + "".join(rows))


def vatex(folder, tested=2):
    """5 train, 4 validation (2 + 2 for retrieval), 2 public test.

    tested: how many retrieval is tested on, if not two.
    """

    def entries(kind, count, chinese=True):
        return [
            {"videoID": f"{youtube(n, kind)}_{n:06d}_{n + 10:06d}"}
            | {"enCap": [f"a group of {n} people, {k}" for k in range(3)]}
            | ({"chCap": ["一群人"]} if chinese else {})
            for n in range(count)
        ]

    validation = entries("b", 2 + tested)
    (folder / "vatex_training_v1.0.json").write_text(json.dumps(entries("a", 5)))
    (folder / "vatex_validation_v1.0.json").write_text(json.dumps(validation))
    public = json.dumps(entries("c", 2, chinese=False))
    (folder / "vatex_public_test_english_v1.1.json").write_text(public)
    ids = [entry["videoID"] for entry in validation]
    (folder / "vatex_retrieval_val.txt").write_text("\n".join(ids[:2]) + "\n")
    np.save(folder / "tst_names.npy", np.array(ids[2:]))


def audiocaps(folder):
    """5 train with one caption, 2 val and 2 test with five."""
    number = 0
    for split, first, count, captions in (("train", 0, 5, 1), ("val", 5, 2, 5), ("test", 7, 2, 5)):
        text = "audiocap_id,youtube_id,start_time,caption\n"
        for k in range(captions):
            for n in range(first, first + count):
                number += 1
                text += (
                    f'{number},{youtube(n, "s")},{30 * n},"A man speaks, then {n} dogs bark {k}"\n'
                )
        (folder / f"{split}.csv").write_text(text)


def esc50(folder):
    """Two classes, one sound each in every fold."""
    text = "filename,fold,target,category,esc10,src_file,take\n"
    for fold in range(1, 6):
        for target, category in ((0, "dog"), (20, "crying_baby")):
            source = 100000 + 100 * fold + target
            name = f"{fold}-{source}-A-{target}.wav"
            text += f"{name},{fold},{target},{category},True,{source},A\n"
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text(text)


def ucf101(folder):
    """Two classes, groups 1, 8 and 15 (each in one test list), 22 and 23 (in none)."""
    index = "".join(f"{n} {name}\r\n" for n, name in zip((1, 101), CLASSES, strict=True))
    (folder / "classInd.txt").write_bytes(index.encode())
    for k, tested in ((1, 1), (2, 8), (3, 15)):
        train = test = ""
        for number, name in zip((1, 101), CLASSES, strict=True):
            for group in (1, 8, 15, 22, 23):
                line = f"{name}/v_{name}_g{group:02d}_c01.avi"
                if group == tested:
                    test += f"{line}\r\n"
                else:
                    train += f"{line} {number}\r\n"
        (folder / f"trainlist0{k}.txt").write_bytes(train.encode())
        (folder / f"testlist0{k}.txt").write_bytes(test.encode())


def howto100m(folder):
    """Four videos with a track of 12 captions, one that has none, one that is not listed."""
    track = {
        "start": [2.0 * n for n in range(12)],
        "end": [2.0 * n + 2.5 for n in range(12)],
        "text": [f"now take {n}" if n % 5 else " " for n in range(12)],
    }
    names = [youtube(n, "h") for n in range(5)]
    text = "video_id,category_1,category_2,rank,task_id\n"
    text += "".join(f"{name},Food and Entertaining,Recipes,1,2\n" for name in names)
    (folder / "HowTo100M_v1.csv").write_text(text)
    tracks = {name: track for name in names[:4]} | {youtube(9, "h"): track}
    (folder / "raw_caption.json").write_text(json.dumps(tracks))


def audioset(folder):
    """Six segments of the unbalanced list, two of the balanced one, four to evaluate on.

    The lists are as published, as copies have them, and as published with one label each.
    """
    (folder / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n'
    )
    text = "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=6\n"
    text += "# YTID, start_seconds, end_seconds, positive_labels\n"
    for n in range(6):
        text += f'{youtube(n, "x")}, {n}0.000, {n + 1}0.000, "/m/09x0r,/m/05zppz"\n'
    (folder / "unbalanced_train_segments.csv").write_text(text)
    text = "# num_ytids=2, num_segs=2, num_unique_labels=2, num_positive_labels=3\n"
    text += f'{youtube(0, "-")},30,40,"/m/09x0r,/m/05zppz"\n{youtube(1, "z")},0,9,/m/05zppz\n'
    (folder / "balanced_train_segments.csv").write_text(text)
    text = "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=4, num_segs=4\n"
    for video, mid in zip(AUDIOSET_EVAL, ["/m/09x0r", "/m/05zppz"] * 2, strict=True):
        text += f'{video}, 0.000, 10.000, "{mid}"\n'
    (folder / "eval_segments.csv").write_text(text)


def audioset_json(folder):
    """The same clips in the form of CAV-MAE; its list of 2 M clips has the balanced ones too."""
    audioset(folder)
    found = {}
    for path in sorted(folder.glob("*_segments.csv")):
        rows = [row.split(",", 3) for row in path.read_text().splitlines() if row[0] != "#"]
        found[path] = [(row[0], row[3].strip(' "')) for row in rows]
        path.unlink()
    balanced, _, unbalanced = sorted(found)
    found[unbalanced] += found[balanced]
    for path, rows in found.items():
        entries = [
            {"video_id": video, "wav": f"/data/{video}.flac", "video_path": "/data", "labels": mids}
            for video, mids in rows
        ]
        path.with_suffix(".json").write_text(json.dumps({"data": entries}, indent=1))


VGGSOUND = [  # YouTube id, start, class, split; a video has two clips
    (youtube(n, "v"), 30 * n, label, split)
    for n, (label, split) in enumerate(
        (label, split)
        for split in ("train", "test")
        for label in ("people marching", "bird chirping, tweeting", "playing timpani")
        for _ in range(2)
    )
] + [
    (youtube(9, "-"), 1, "playing tympani", "train"),
    (youtube(11, "v"), 7, "playing tympani", "test"),
]


def vggsound(folder):
    """Eight clips to train on, eight to test, and VGGSounder's labels of two of these."""
    lines = [
        f"{video},{start},{_quoted(label)},{split}\n" for video, start, label, split in VGGSOUND
    ]
    (folder / "vggsound.csv").write_text("".join(lines))
    _vggsound_part(folder, "test")
    first, second = (f"{video}_{start:06d}" for video, start, _, split in VGGSOUND[6:8])
    (folder / "vggsounder.csv").write_text(
        "video_id,label,modality,background_music,static_image,voice_over\n"
        f"{first},people marching,AV,False,False,True\n{first},people crowd,A,False,False,True\n"
        f'{second},"bird chirping, tweeting",V,True,False,False\n'
    )


def vggsound_pair(folder):
    """The same clips in two lists."""
    for split in ("train", "test"):
        _vggsound_part(folder, split)


def _vggsound_part(folder, split):
    """One list, in another order than that of the ids."""
    rows = [row for row in reversed(VGGSOUND) if row[3] == split]
    lines = [f"{video}_{start:06d}.mp4,{_quoted(label)}\r\n" for video, start, label, _ in rows]
    (folder / f"{split}.csv").write_bytes("".join(lines).encode())


def _quoted(label):
    return f'"{label}"' if "," in label else label


def demo(folder):
    """Two whole clips, one that is cut from a film, one that is gone."""
    head = "clip_id\tfile\tsplit\tcategory\tspoken\tcaptions\n"
    rows = [f'{name}\tclips/{name}.mp4\t{split}\tanimal\t0\t["A frog.", "It croaks."]\n'
            for name, split in (("a", "train"), ("b", "val"), ("c", "test"))]  # fmt: skip
    (folder / "clips.tsv").write_text(head + "".join(rows))
    head = "clip_id\tfile\tstart\tend\tsplit\tcategory\tspoken\tcaptions\n"
    gone = 'd\tclips/d.mp4\t\t\ttrain\tanimal\t1\t["Gone."]\n'
    film = 'c\tfilm.mp4\t1.5\t11.5\ttest\tanimal\t0\t["A frog."]\n'
    (folder / "film.tsv").write_text(head + gone + film)


WRITE = {
    "audiocaps": audiocaps,
    "audioset": audioset,
    "demo": demo,
    "esc50": esc50,
    "howto100m": howto100m,
    "msrvtt": msrvtt,
    "ucf101": ucf101,
    "vatex": vatex,
    "vggsound": vggsound,
}
FORMS = {name: (name, write) for name, write in WRITE.items()} | {  # form -> its reader, writer
    "audioset_json": ("audioset", audioset_json),
    "vggsound_pair": ("vggsound", vggsound_pair),
}


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_media(folder, files, seconds=2.0, silent=()):
    """A small clip, or a sound where the name says so, for every file of a plan.

    silent: how the names of those begin that have pictures alone.
    """
    for number, file in enumerate(sorted(set(files))):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        amplitude = 0.1 + 0.05 * (number % 10)
        if path.suffix == ".wav":
            options = {"pictures": False, "codecs": ("", "pcm_s16le"), "sound": ("mono", 44100)}
        else:
            options = {"codecs": ("mpeg4", "libmp3lame" if path.suffix == ".avi" else "aac")}
        if path.name.startswith(tuple(silent)):
            options["sound"] = None
        make_clip(path, seconds=seconds, amplitude=amplitude, **options)

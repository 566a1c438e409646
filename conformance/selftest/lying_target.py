"""A real target that lies: lying_target.py LIE -- COMMAND

LIE   VERB:PATH:DELTA          add to a number of an answer: lists:0.base_va:4096
      file:NAME:OFFSET:DELTA   add to a byte of a shared file, after init: file:config:4:1
      drop:VERB                answer as if it had been done: drop:tailq
"""

import json
import subprocess
import sys

verb, *how = sys.argv[1].split(":")
child = subprocess.Popen(
    sys.argv[3:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
)


def lie(answer):
    *path, last = (int(k) if k.isdigit() else k for k in how[0].split("."))
    for k in path:
        answer = answer[k]
    answer[last] += int(how[1])


def damage(run):
    name, offset, delta = how
    with open(f"{run}/{name}", "r+b") as f:
        f.seek(int(offset))
        byte = f.read(1)[0]
        f.seek(int(offset))
        f.write(bytes([(byte + int(delta)) % 256]))


print(child.stdout.readline(), end="", flush=True)
for line in sys.stdin:
    asked = json.loads(line)["verb"]
    if [verb, *how] == ["drop", asked]:
        print(json.dumps({"ok": {"ret": 0, "errno": 0}}), flush=True)
        continue
    child.stdin.write(line)
    answer = json.loads(child.stdout.readline())
    if "ok" in answer and asked == verb:
        lie(answer["ok"])
    if "ok" in answer and (verb, asked) == ("file", "init"):
        damage(answer["ok"]["runtime_dir"])
    print(json.dumps(answer), flush=True)
child.stdin.close()
sys.exit(child.wait())

"""Uses characters in its source that different readers take for different things: compatible letters, line separators, form feeds.

canary: run
honest: double scale report
unprotected: stands
"""
# %% report
𝒙 = 1
def 𝓻𝓮𝓹𝓸𝓻𝓽(ｘ):  # the same name, in other letters
    text = "a b c"
    return open("answer.txt", "w").write(str(3 * x)) * 0 + 3 * x

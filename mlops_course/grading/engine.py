class JudgeEngine: pass

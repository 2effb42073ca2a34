"""The alignment loop: roll out, reward, advantage, optimize. The four slots fill it; the loop itself is the core's."""

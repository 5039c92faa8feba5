"""Video: reading and writing files, shots, and stylization that does not flicker.

    from adaconv_jax.video import open_video, stylize_frames
    for picture in stylize_frames(open_video("in.mp4"), style):
      ...

open_video      opens a file or a folder of pictures; iterate it for the frames
stylize_frames  frames in, stylized frames out
"""

from adaconv_jax.video.reader import Frame, Video, VideoError, open_video
from adaconv_jax.video.stylize import stylize_frames

__all__ = ["Frame", "Video", "VideoError", "open_video", "stylize_frames"]

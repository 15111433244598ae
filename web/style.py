"""The style of the page, on top of gradio's."""

CSS = """
header h1 { margin: 0; font-size: 1.3rem; }
header p { margin: 2px 0 0; }
.note, .hint { margin: 2px 0; color: var(--body-text-color-subdued); font-size: .9rem; }
.why { margin: 6px 0; padding: 8px 12px; border-left: 4px solid #e08e0b; background: var(--background-fill-secondary); }
.stage { margin: 8px 0 0; font-weight: 600; }
.pictures { display: grid; gap: 8px; align-items: start; }
.result .pictures *, .preview * { margin: 0 !important; }
.pictures img { display: block; width: 100%; height: auto; border-radius: 3px; }
.pictures img.sharp { image-rendering: pixelated; }
.pictures figcaption { padding-top: 2px; font-size: .8rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
.pictures .frame { aspect-ratio: 1; border: 1px dashed var(--border-color-primary); border-radius: 3px; }
.upload img { width: 100%; height: 100%; object-fit: contain; }
.bar { margin: 2px 0; font-size: .9rem; }
.bar progress { width: 60%; vertical-align: middle; accent-color: #2563eb; appearance: auto; }
.legend { display: flex; gap: 8px; align-items: center; font-size: .9rem; }
.legend i { width: 180px; height: 10px; border-radius: 3px; }
.preview { margin: 0 0 16px; }
.preview img { max-width: min(100%, 720px); }
.preview figcaption { font-size: .8rem; }
.seed button { align-self: end; margin-bottom: 4px; }
.command textarea { font-family: var(--font-mono); font-size: .8rem; }
footer { display: none !important; }
"""

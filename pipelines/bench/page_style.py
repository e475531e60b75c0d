"""Look and behaviour of the report, as text that goes into the page: it loads nothing from elsewhere."""

from __future__ import annotations

__all__ = ["COLOURS", "SCRIPT", "STYLE"]

# one per method; told apart on white and on dark, and by people with the usual colour deficiencies (Okabe and Ito, with their black left out)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#8a6fd1", "#7a7a7a")

STYLE = """
:root{--ink:#1c1d21;--soft:#62656e;--line:#e2e4e9;--paper:#fff;--card:#f7f8fa;--accent:#0b6bcb;--good:#0a7f4f;--bad:#b3382c;--warn:#8a5200}
@media(prefers-color-scheme:dark){:root{--ink:#e7e8eb;--soft:#9a9ea8;--line:#2e3138;--paper:#141519;--card:#1c1e23;--accent:#6db3ff;--good:#4cc38a;--bad:#f08a7f;--warn:#e5b567}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:84rem;margin:0 auto;padding:2rem 1.5rem 5rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem;font-weight:650}
h2{font-size:1.25rem;margin:2.6rem 0 .4rem;padding-top:1.2rem;border-top:1px solid var(--line);font-weight:650}
h3{font-size:1.02rem;margin:1.8rem 0 .5rem;font-weight:650}
p{margin:.3rem 0 .8rem}.soft{color:var(--soft)}.note{color:var(--warn)}
a{color:var(--accent)}code,pre{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1rem;margin:.6rem 0 0;font-size:.92rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;margin:.4rem 0 1rem;font-variant-numeric:tabular-nums}
th,td{padding:.26rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--soft);font-size:.92em}th:first-child,td:first-child,.left{text-align:left}td svg{display:block}
tbody.group{border-top:2px solid var(--line)}td.best{font-weight:650}
td .pm{color:var(--soft);font-size:.84em;font-weight:400;padding-left:.15em}
.dot{display:inline-block;width:.62em;height:.62em;border-radius:50%;margin-right:.5em;vertical-align:.02em}
.good{color:var(--good)}.bad{color:var(--bad)}
.tabs{display:flex;flex-wrap:wrap;gap:.35rem;margin:.35rem 0}
.tabs button{font:inherit;font-size:.87rem;padding:.18rem .75rem;border:1px solid var(--line);border-radius:1rem;background:var(--paper);color:var(--ink);cursor:pointer}
.tabs button[aria-pressed=true]{background:var(--ink);color:var(--paper);border-color:var(--ink)}
.tabs button:focus-visible,.cmp input:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.panel{display:grid;grid-template-columns:minmax(0,2fr) minmax(0,1fr);gap:.8rem;margin:.5rem 0}
.panel[hidden]{display:none}
img.small{width:min(30%,16rem);margin:.3rem .3rem .6rem 0;border-radius:.3rem;vertical-align:top}
.panel figure{margin:0}.panel img{display:block;width:100%;border-radius:.3rem}
.stack{display:grid;gap:.6rem;align-content:start}
figcaption{font-size:.83rem;color:var(--soft);padding-top:.2rem}
.cmp{position:relative;--x:50%;overflow:hidden;border-radius:.3rem}
.cmp .over{position:absolute;inset:0;clip-path:inset(0 calc(100% - var(--x)) 0 0)}
.cmp .bar{position:absolute;top:0;bottom:0;left:var(--x);width:2px;margin-left:-1px;background:#fff;box-shadow:0 0 3px #000a;pointer-events:none}
.cmp .bar:after{content:"";position:absolute;top:50%;left:50%;width:26px;height:26px;margin:-13px;border-radius:50%;background:#fff;box-shadow:0 1px 4px #0008}
.cmp .tag{position:absolute;top:.5rem;padding:.05rem .5rem;border-radius:.25rem;background:#000a;color:#fff;font-size:.78rem;pointer-events:none}
.cmp .tag.l{left:.5rem}.cmp .tag.r{right:.5rem}
.cmp input{position:absolute;inset:0;width:100%;height:100%;margin:0;opacity:0;cursor:ew-resize}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1rem;margin:.6rem 0}
svg.chart{width:100%;height:auto;background:var(--card);border-radius:.4rem}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}svg .grid{stroke:var(--line)}svg .axis{stroke:var(--soft)}
details{margin:.4rem 0;border:1px solid var(--line);border-radius:.4rem;padding:.3rem .8rem}summary{cursor:pointer}
pre{background:var(--card);padding:.7rem .9rem;border-radius:.4rem;overflow:auto;max-height:26rem;margin:.5rem 0}
@media(max-width:50rem){.panel{grid-template-columns:1fr}}
"""

SCRIPT = """
document.querySelectorAll('.cmp input').forEach(i=>i.addEventListener('input',()=>i.parentNode.style.setProperty('--x',i.value+'%')));
document.querySelectorAll('.scene').forEach(s=>{
  const now={m:'0',v:'0'};
  const show=()=>{
    s.querySelectorAll('.panel').forEach(p=>p.hidden=p.dataset.m!==now.m||p.dataset.v!==now.v);
    s.querySelectorAll('.tabs button').forEach(b=>b.setAttribute('aria-pressed',String(now[b.dataset.kind]===b.dataset.value)));
  };
  s.querySelectorAll('.tabs button').forEach(b=>b.addEventListener('click',()=>{now[b.dataset.kind]=b.dataset.value;show();}));
});
"""
